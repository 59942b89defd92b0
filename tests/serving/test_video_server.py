"""A real server that is shown videos over HTTP."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-serving")

import transformers as tf
from PIL import Image
from transformers.video_utils import VideoMetadata

from sparevlm import SPARE
from tests.families.common import clip
from tests.serving import checkpoints
from tests.serving.http import read, running, streamed
from tests.serving.positions import after_videos

MOST = 64  # frames
TEMPLATE = "{% for m in messages %}USER: {{ m['content'] }}{% endfor %} ASSISTANT:"
QUESTION = "what color is the star ?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    made = checkpoints.make("qwen2_5_vl")
    return checkpoints.save(made, tmp_path_factory.mktemp("model")), made


@pytest.fixture(scope="module")
def server(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("server")
    (folder / "template").write_text(TEMPLATE)
    with running(
        folder / "log", checkpoint[0], "--mm-processor-kwargs",
        json.dumps({"sparevlm": {"keep": 3}}), "--trust-request-mm-kwargs",
        "--chat-template", str(folder / "template"),
        "--media-io-kwargs", json.dumps({"video": {"num_frames": -1}}),
        "--limit-mm-per-prompt", json.dumps({"video": {"count": 2, "num_frames": MOST}}),
    ) as found:  # fmt: skip
        yield found


def jpegs(frames: np.ndarray) -> list[bytes]:
    found = []
    for frame in frames:
        held = io.BytesIO()
        Image.fromarray(frame).save(held, "JPEG")
        found.append(held.getvalue())
    return found


def data_url(frames: list[bytes], kind: str = "video") -> str:
    return f"data:{kind}/jpeg;base64," + ",".join(base64.b64encode(f).decode() for f in frames)


def body(*shown: str, **sparevlm) -> dict:
    kinds = ["video" if url.startswith("data:video") else "image" for url in shown]
    content = [
        {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
        for kind, url in zip(kinds, shown, strict=True)
    ]
    content.append({"type": "text", "text": QUESTION})
    asked = {"mm_processor_kwargs": {"sparevlm": sparevlm}} if sparevlm else {}
    return {
        "model": "pocket", "messages": [{"role": "user", "content": content}],
        "temperature": 0, "max_tokens": 6, "add_special_tokens": True, "ignore_eos": True, **asked,
    }  # fmt: skip


@pytest.fixture(scope="module")
def reference(checkpoint):
    """What transformers says to a video, and how long its prompt is as pruned."""
    folder, made = checkpoint
    model, processor = checkpoints.load(folder), tf.AutoProcessor.from_pretrained(folder)
    after_videos(model)

    def decoded(frames: list[bytes]) -> list[Image.Image]:
        return [Image.open(io.BytesIO(frame)).convert("RGB") for frame in frames]

    def ask(film: list[bytes], picture: bytes | None = None, **settings) -> tuple[str, int]:
        frames = np.stack([np.asarray(frame) for frame in decoded(film)])
        known = VideoMetadata(
            total_num_frames=len(frames), fps=1.0, duration=float(len(frames)),
            frames_indices=[*range(len(frames))],
        )  # fmt: skip
        marks = [made.image] * (picture is not None) + [made.video]
        inputs = processor(
            text=["USER: " + "\n".join([*marks, QUESTION]) + " ASSISTANT:"],
            images=decoded([picture]) if picture else None, videos=[frames],
            video_metadata=[known], do_sample_frames=False, return_tensors="pt",
        )  # fmt: skip
        length = inputs["input_ids"].shape[1]
        with SPARE(guidance="none", **{"keep": 3} | settings).attach(model) as handle:
            out = model.generate(**inputs, do_sample=False, max_new_tokens=6)
        shorter = sum(one.before - one.after for one in handle.report)
        said = processor.tokenizer.decode(out[0, length:], skip_special_tokens=True)
        return said.strip(), length - shorter

    return ask


FILMS = [jpegs(clip(i, frames)) for i, frames in enumerate((6, 3, 8, MOST))]
PICTURE = jpegs(clip(9, 1))[0]
JOINT = {"keep": 9, "per": "prompt"}


def test_streaming(server, reference):
    assert streamed(server, body(data_url(FILMS[0]))) == reference(FILMS[0])[0]


def test_clients_at_once_each_with_its_own_budget(server, reference):
    budgets = ({}, {"keep": 0.5}, JOINT, {"keep": 2, "per": "prompt"})
    asked = [(film, settings) for film in FILMS for settings in budgets] * 2

    def ask(one):
        film, settings = one
        return read(server.post(body(data_url(film), **settings)))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, asked))
    half = len(asked) // 2
    expected = [reference(film, **settings) for film, settings in asked[:half]]
    assert found == expected * 2
    assert len({length for _, length in found}) > 4


def test_a_picture_and_a_video_jointly(server, reference):
    asked = body(data_url([PICTURE], "image"), data_url(FILMS[0]), **JOINT)
    expected = reference(FILMS[0], PICTURE, **JOINT)
    assert [read(server.post(asked)) for _ in range(2)] == [expected] * 2


def test_metrics(server):
    names = [f"sparevlm_visual_tokens_{what}_total dart" for what in ("in", "kept")]
    before = server.metrics()
    read(server.post(body(data_url(FILMS[0]), keep=5, method="dart")))
    after = server.metrics()
    assert [after[name] - before.get(name, 0) for name in names] == [3 * 12, 3 * 5]


LONG = jpegs(clip(20, 1)) * (MOST + 1)
UNLIKE = [*FILMS[0], *jpegs(clip(21, 1)[:, :90])]


@pytest.mark.parametrize(
    ("shown", "settings", "words"),
    [
        (LONG, {}, f"a video of {MOST + 1} frames is more than the {MOST}"),
        (UNLIKE, {}, "shape"),  # vLLM's own words
        (FILMS[0], {"keep": 0.01}, "leaves less than one of a frame's 12 tokens"),
        (FILMS[0], {"keep": 9, "per": "tile"}, 'per="tile" is not for serving'),
        (FILMS[0], {"keep": 0, "per": "prompt"}, "leaves no tokens"),
        ([b"no picture"], {}, ""),
    ],
)
def test_bad_videos_are_http_400_and_the_next_is_answered(
    server, reference, shown, settings, words
):
    before = set(server.processes())
    response = server.post(body(data_url(shown), **settings))
    assert response.status_code == 400, response.text
    assert words in response.json()["error"]["message"]
    assert read(server.post(body(data_url(FILMS[1])))) == reference(FILMS[1])
    assert set(server.processes()) == before
