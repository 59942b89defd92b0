"""A real server, spoken to over HTTP as its users do."""

from __future__ import annotations

import base64
import io
import json
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-serving")

import httpx

import sparevlm
from sparevlm import SPARE, cli, load
from sparevlm.chat import tokenized
from sparevlm.pocket.questions import sample
from sparevlm.pocket.scenes import draw_scene
from tests.serving.engine import ended
from tests.serving.http import MODULE, free_port, options, read, running, streamed

POCKET = Path(sparevlm.__file__).parent / "pocket" / "weights"
KEEP = 24
FULL = 196


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("server") / "log"
    kwargs = json.dumps({"sparevlm": {"keep": KEEP}})
    with running(
        path, POCKET, "--mm-processor-kwargs", kwargs, "--trust-request-mm-kwargs"
    ) as found:
        yield found


def data_url(picture) -> str:
    held = io.BytesIO()
    picture.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def body(question: str, *urls: str, **more) -> dict:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content.append({"type": "text", "text": question})
    return {
        "model": "pocket", "messages": [{"role": "user", "content": content}],
        "temperature": 0, "max_tokens": 6, **more,
    }  # fmt: skip


def pruned(keep, **settings) -> dict:
    return {"mm_processor_kwargs": {"sparevlm": {"keep": keep, **settings}}}


@pytest.fixture(scope="module")
def reference():
    """What transformers says to a question about one picture, and how long its prompt is."""
    model, processor = load("pocket")

    def ask(picture, question: str, keep: int | None) -> tuple[str, int]:
        message = [{"type": "image"}, {"type": "text", "text": question}]
        inputs = tokenized(processor, [[{"role": "user", "content": message}]], [[picture]])
        length = inputs["input_ids"].shape[1]
        method = SPARE(keep=keep or FULL, guidance="none", positions="original")
        with method.attach(model):
            out = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        answer = processor.tokenizer.decode(out[0, length:], skip_special_tokens=True)
        return answer.strip(), length - FULL + (keep or FULL)

    return ask


QUESTIONS = [sample("test", i) for i in range(24)]  # scene, question


def test_chat_is_the_same_as_transformers(server, reference):
    for scene, question in QUESTIONS[:8]:
        picture = scene.picture()
        found = read(server.post(body(question.text, data_url(picture))))
        assert found == reference(picture, question.text, KEEP)
    full = read(server.post(body(question.text, data_url(picture), **pruned(1.0))))
    assert full == reference(picture, question.text, None)


def test_streaming(server, reference):
    scene, question = QUESTIONS[0]
    said = streamed(server, body(question.text, data_url(scene.picture())))
    assert said == reference(scene.picture(), question.text, KEEP)[0]


def test_clients_at_once_each_with_its_own_budget(server, reference):
    keeps = [KEEP, 6, 48, 196]
    asked = [(scene.picture(), question.text, keeps[i % 4])
             for i, (scene, question) in enumerate(QUESTIONS)]  # fmt: skip

    def ask(one):
        picture, question, keep = one
        return read(server.post(body(question, data_url(picture), **pruned(keep))))

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, asked))
    assert found == [reference(*one) for one in asked]
    assert len({length for _, length in found}) >= 4


def test_several_pictures(server):
    two = [data_url(scene.picture()) for scene, _ in QUESTIONS[:2]]
    lengths = [read(server.post(body("is it red ?", *two, **pruned(k))))[1] for k in (10, 11)]
    assert lengths[1] - lengths[0] == 2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"keep": 0}, "leaves no tokens"),
        ({"keep": "lots"}, "no budget"),
        ({"keep": 9, "method": "visionzip"}, "encoder attention"),
        ({"keep": 9, "colour": 1}, "no setting colour"),
        ([9], "no setting"),
    ],
)
def test_wrong_settings_are_http_400(server, setting, words):
    asked = body("is it red ?", data_url(draw_scene(0).picture()))
    asked["mm_processor_kwargs"] = {"sparevlm": setting}
    response = server.post(asked)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_more_than_there_are(server, reference):
    picture = draw_scene(0).picture()
    found = read(server.post(body("is it red ?", data_url(picture), **pruned(10**6))))
    assert found == reference(picture, "is it red ?", None)


def test_metrics(server):
    names = [f"sparevlm_visual_tokens_{what}_total divprune" for what in ("in", "kept")]
    before = server.metrics()
    for i in range(3):
        picture = draw_scene(900 + i).picture()
        read(server.post(body("is it red ?", data_url(picture), **pruned(20, method="divprune"))))
    after = server.metrics()
    grown = [after[name] - before.get(name, 0) for name in names]
    assert grown == [3 * FULL, 3 * 20]
    count = "sparevlm_selection_seconds_count divprune"
    assert after[count] - before.get(count, 0) == 3
    assert 0 < after["sparevlm_selection_seconds_sum divprune"] < 10


def bomb() -> bytes:
    """A PNG of 100,000 x 100,000 pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def encoded(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def test_it_lives_on(server, reference):
    """200 good requests among 50 bad ones, and clients that leave in the middle of an answer."""
    pictures = [scene.picture() for scene, _ in QUESTIONS]
    good = [(pictures[i % 24], QUESTIONS[i % 24][1].text, 6 + (i + i // 96) % 24)
            for i in range(200)]  # fmt: skip
    expected = {}
    for picture, question, keep in good:
        key = (id(picture), question, keep)
        if key not in expected:
            expected[key] = reference(picture, question, keep)
    url = data_url(draw_scene(0).picture())
    bad = [
        body("is it red ?", encoded(b"this is no picture")),
        body("is it red ?", url[: len(url) // 2 // 4 * 4]),
        body("is it red ?", encoded(bomb())),
        body("is it red ?", url, **pruned(0)),
        body("is it red ?", *[url] * 9),
    ] * 10

    def leave(asked: dict) -> None:
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=asked | {"stream": True}, timeout=60
        ) as response:
            for _ in response.iter_lines():
                return

    read(server.post(body("is it red ?", url)))
    before = server.processes()
    with ThreadPoolExecutor(16) as pool:
        left = [pool.submit(leave, body(q, data_url(p), max_tokens=200, ignore_eos=True))
                for p, q, _ in good[:20]]  # fmt: skip
        wrong = [pool.submit(server.post, asked) for asked in bad[:25]]
        right = [pool.submit(server.post, body(q, data_url(p), **pruned(k))) for p, q, k in good]
        wrong += [pool.submit(server.post, asked) for asked in bad[25:]]
        for one in left:
            one.result()
        found = [read(one.result()) for one in right]
        refused = [one.result() for one in wrong]
    # A picture of too many pixels is vLLM's own limit, and it says so as an error of the server.
    assert [response.status_code for response in refused] == [400, 400, 500, 400, 400] * 10
    assert all(response.json()["error"]["message"] for response in refused)
    assert found == [expected[id(p), q, k] for p, q, k in good]
    after = server.processes()
    assert set(after) == set(before)  # nothing was restarted
    time.sleep(2)
    grown = sum(server.processes().values()) - sum(before.values())
    assert grown < 200 * 2**20


@pytest.mark.parametrize(
    ("more", "variables", "words"),
    [
        (["--mm-processor-kwargs", '{"sparevlm": {"keep": 5, "method": "visionzip"}}'], {},
         "encoder attention"),
        ([], {"SPAREVLM_KEEP": "none of them"}, "no budget"),
        (["--hf-overrides", '{"sparevlm": {"keep": 0}}'], {}, "leaves no tokens"),
    ],
)  # fmt: skip
def test_a_wrong_setting_ends_the_start(tmp_path, more, variables, words):
    status, said = ended(tmp_path, MODULE, options(POCKET, free_port(), *more), **variables)
    assert status != 0
    assert words in said


def test_ask_url(server, reference, tmp_path, capsys):
    scene, question = QUESTIONS[3]
    path = tmp_path / "scene.png"
    scene.picture().save(path)
    asked = ["ask", str(path), question.text, "--url", server.url]
    assert cli.main([*asked, "--json", "--compare"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = [reference(scene.picture(), question.text, keep) for keep in (KEEP, None)]
    assert (found["answer"], found["prompt_tokens"]) == expected[0]
    assert (found["full_answer"], found["full_prompt_tokens"]) == expected[1]
    assert found["prefill_ms"] > 0
    assert cli.main([*asked, "--keep", "9", "--method", "divprune"]) == 0
    assert f"a prompt of {expected[1][1] - FULL + 9}" in capsys.readouterr().out
    assert cli.main([*asked, "--keep", "0"]) == 2
    assert "leaves no tokens" in capsys.readouterr().err
