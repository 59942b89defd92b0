"""vLLM with the plugin says what transformers says with the same tokens kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-serving")

import transformers as tf
from PIL import Image
from transformers.video_utils import VideoMetadata

import sparevlm
from sparevlm import SPARE, get_method
from sparevlm.pocket.scenes import draw_scene
from tests.families.common import clip
from tests.serving import checkpoints
from tests.serving.engine import RATE, Request, answers, shared
from tests.serving.positions import after_videos

SHAPES = [(112, 112), (200, 120), (90, 180)]  # square, landscape, portrait
GRID = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl"}
POCKET = Path(sparevlm.__file__).parent / "pocket" / "weights"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for i in range(6):
        path = folder / f"{i}.png"
        draw_scene(i).picture().resize(SHAPES[i % 3]).save(path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> list[str]:
    """Two of six frames, one of three, one of 64."""
    folder = tmp_path_factory.mktemp("films")
    paths = []
    for i, frames in enumerate((6, 6, 3, 64)):
        path = folder / f"{i}.npy"
        np.save(path, clip(i, frames))
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module", params=checkpoints.NAMES)
def checkpoint(request, tmp_path_factory) -> tuple[str, Path, str, str]:
    made = checkpoints.make(request.param)
    folder = checkpoints.save(made, tmp_path_factory.mktemp(request.param))
    return request.param, folder, made.image, made.video


class Transformers:
    """The same requests in transformers."""

    def __init__(self, folder: Path) -> None:
        self.processor = tf.AutoProcessor.from_pretrained(folder)
        self.model = checkpoints.load(folder)
        after_videos(self.model)

    def inputs(self, request: Request) -> dict[str, Any]:
        """What its processor makes of a request."""
        images = [Image.open(path).convert("RGB") for path in request.pictures]
        videos = [np.load(path) for path in request.films]
        known = [
            VideoMetadata(
                total_num_frames=len(video), fps=RATE, duration=len(video) / RATE,
                frames_indices=[*range(len(video))],
            )
            for video in videos
        ]  # fmt: skip
        more = {"videos": videos, "video_metadata": known, "do_sample_frames": False}
        return self.processor(
            text=[request.prompt], images=images or None, return_tensors="pt",
            **(more if videos else {}),
        )  # fmt: skip

    def answer(
        self, request: Request, keep: Any, positions: str, relevance: str = "auto", **settings: Any
    ) -> tuple:
        """Length of the prompt as pruned, and the new token ids."""
        inputs = self.inputs(request)
        settings = {"guidance": "none"} | settings
        options = {"max_new_tokens": request.tokens, "do_sample": False, "eos_token_id": 10**6}
        length = inputs["input_ids"].shape[1]
        if keep is None:
            out = self.model.generate(**inputs, **options)
            return length, out[0, length:].tolist()
        method = SPARE(keep=keep, positions=positions, **settings)
        tokenizer = self.processor.tokenizer
        with method.attach(self.model, tokenizer=tokenizer, relevance=relevance) as handle:
            out = self.model.generate(**inputs, **options)
        shorter = sum(image.before - image.after for image in handle.report)
        return length - shorter, out[0, length:].tolist()


def requests(mark: str, pictures: list[str], keeps: tuple[Any, ...]) -> list[Request]:
    one, two = (
        f"USER: {mark}\nwhat color is the star ? ASSISTANT:",
        (f"USER: {mark}\n{mark}\ncount the digits . ASSISTANT:"),
    )
    singles = [
        Request(one, [pictures[i]], None if keep is None else {"keep": keep})
        for i in range(3) for keep in keeps
    ]  # fmt: skip
    pairs = [
        Request(two, [pictures[1], pictures[2]], {"keep": 7}),
        Request(two, [pictures[2], pictures[1]], {"keep": 0.25}),
    ]
    return [*singles, *pairs]


def filmed(image: str, video: str, pictures: list[str], films: list[str]) -> list[Request]:
    """Videos, alone and beside pictures: of each frame so many, or of all of a prompt."""

    def ask(shown: str, count: int, *numbers: int, **settings: Any) -> Request:
        words = shown.replace("I", image).replace("V", video)
        prompt = f"USER: {words}\nwhat color is the star ? ASSISTANT:"
        return Request(prompt, pictures[:count], settings, films=[films[i] for i in numbers])

    return [
        ask("V", 0, 0, keep=3),
        ask("V", 0, 2, keep=0.5),
        ask("V", 0, 0, keep=1.0),
        ask("V", 0, 0, keep=7, per="prompt"),
        ask("V", 0, 3, keep=20, per="prompt"),  # fewer than frames
        ask("I V", 1, 0, keep=3),
        ask("V V", 0, 0, 1, keep=3),
        ask("I V", 1, 0, keep=9, per="prompt"),
        ask("V is it like I or V", 1, 1, 0, keep=0.2, per="prompt"),
        ask("I I", 2, keep=9, per="prompt"),
    ]


def wanted_of(other: Transformers, request: Request, positions: str, **server: Any) -> tuple:
    """What transformers says to a request on a server with settings of its own."""
    settings = {"positions": positions} | server | (request.sparevlm or {})
    keep = settings.pop("keep", None)
    return other.answer(request, None if keep == 1.0 else keep, **settings)


def seen(answer) -> tuple[int, list[int]]:
    return answer.prompt, answer.ids


def test_tokens_are_identical(checkpoint, pictures, films, tmp_path):
    """Mixed budgets in one batch, squares, landscapes, portraits, several pictures, and videos."""
    name, folder, mark, video = checkpoint
    asked = requests(mark, pictures, (5, 9, None))
    shown = filmed(mark, video, pictures, films)
    if name not in checkpoints.VIDEOS:
        shown = shown[-1:]
    room = 160 if name != "qwen3_vl" else 320  # a long video has many times of frames
    found, watched = answers(tmp_path, folder, [asked, shown], max_num_batched_tokens=room)
    other = Transformers(folder)
    positions = "original" if name in GRID else "compact"
    wanted = [wanted_of(other, request, positions) for request in asked]
    assert [seen(answer) for answer in found] == wanted
    assert [seen(answer) for answer in watched] == [wanted_of(other, r, positions) for r in shown]
    # What the comparison could not see if it went wrong.
    assert found[0].ids != found[2].ids  # 5 tokens, and all of them
    assert len({tuple(answer.ids) for answer in found}) > 3
    full, kept = found[2].prompt, found[0].prompt
    assert full - kept == other.answer(asked[2], None, positions)[0] - kept
    # Never more unpruned tokens at once than the encoder's memory was measured with.
    noted = json.loads((tmp_path / "job.encoded.json").read_text())
    if name in checkpoints.VIDEOS:
        each = 1 / 4 if name in GRID else 4  # tokens of a row of patches, or of a frame
        assert max(noted["frames"]) * each <= noted["room"]
        assert len(noted["frames"]) > len(shown) or name == "qwen3_vl"  # whose frames shrink


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> tuple[Path, str, str]:
    made = checkpoints.make("llava")
    return checkpoints.save(made, tmp_path_factory.mktemp("llava")), made.image, ""


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> tuple[Path, str, str]:
    made = checkpoints.make("qwen2_5_vl")
    return checkpoints.save(made, tmp_path_factory.mktemp("qwen")), made.image, made.video


@pytest.mark.parametrize("name", [n for n in checkpoints.NAMES if n not in GRID])
def test_original_positions_on_a_line(name, pictures, films, tmp_path):
    """A server that was started with a budget gives kept tokens the positions they had."""
    made = checkpoints.make(name)
    folder = checkpoints.save(made, tmp_path / "model")
    asked = requests(made.image, pictures, (5, 1.0))
    asked += [Request(asked[0].prompt, [pictures[0]], {"positions": "compact"})]
    asked += [Request(asked[0].prompt, [pictures[0]])]  # the server's own
    shown = filmed(made.image, made.video, pictures, films)
    if name not in checkpoints.VIDEOS:
        shown = shown[-1:]
    found, watched = answers(
        tmp_path, folder, [asked, shown], mm_processor_kwargs={"sparevlm": {"keep": 4}}
    )  # fmt: skip
    other = Transformers(folder)
    wanted = [wanted_of(other, request, "original", keep=4) for request in asked]
    assert [seen(answer) for answer in found] == wanted
    wanted = [wanted_of(other, request, "original", keep=4) for request in shown]
    assert [seen(answer) for answer in watched] == wanted
    assert found[-1].ids != found[-2].ids  # the positions matter


@pytest.mark.parametrize("which", ["llava", "qwen"])
def test_caches_and_chunks(which, request, pictures, films, tmp_path):
    """Prefix cache, processor cache, UUIDs and prefill in small pieces change nothing."""
    folder, mark, video = request.getfixturevalue(which)
    positions = "original"
    begin = "USER: " + "the red circle is left of the blue star . " * 3  # more than a block
    ask = f"{begin}{mark}\n{mark}\n" + "what color is the star ? " * 6 + "ASSISTANT:"
    again = f"{begin}{mark}\n{mark}\n" + "how many digits are there ? " * 6 + "ASSISTANT:"
    both = pictures[1:3]
    first = [Request(ask, both, {"keep": 9}), Request(ask, both, {"keep": 5})]
    second = [
        Request(ask, both, {"keep": 9}),
        Request(again, both, {"keep": 9}),
        Request(again, both, {"keep": 5}),
        Request(again, both, {"keep": 5, "method": "divprune"}),
        Request(again, both[::-1], {"keep": 9}),
        Request(again, both, {"keep": 9}, uuids=["a", "b"]),
        Request(again, both, {"keep": 5}, uuids=["a", "b"]),
        Request(again, both, {"keep": 1.0}, uuids=["a", "b"]),
        Request(ask, both, {"keep": 9, "per": "prompt"}),
        Request(again, both, {"keep": 9, "per": "prompt"}),
        Request(again, both[::-1], {"keep": 9, "per": "prompt"}),
    ]
    if video:
        mixed = again.replace(mark, video, 1)
        second += [
            Request(mixed, both[:1], {"keep": 3}, films=films[:1]),
            Request(mixed, both[:1], {"keep": 9, "per": "prompt"}, films=films[:1]),
            Request(mixed, both[:1], {"keep": 9, "per": "prompt"}, films=films[1:2]),
            Request(again.replace(mark, video), [], {"keep": 9, "per": "prompt"}, films=films[:2]),
        ]
    found = answers(
        tmp_path, folder, [first, second, second], max_num_batched_tokens=128, block_size=32,
        long_prefill_token_threshold=16, enable_prefix_caching=True,
        mm_processor_kwargs={"sparevlm": {"keep": 3}},
    )  # fmt: skip
    other = Transformers(folder)

    def wanted(r: Request) -> tuple:
        if "method" not in r.sparevlm:
            return wanted_of(other, r, positions)
        inputs = other.inputs(r)
        method = get_method("divprune", r.sparevlm["keep"], positions=positions)
        with method.attach(other.model) as handle:
            out = other.model.generate(
                **inputs, max_new_tokens=r.tokens, do_sample=False, eos_token_id=10**6
            )
        length = inputs["input_ids"].shape[1]
        shorter = sum(image.before - image.after for image in handle.report)
        return length - shorter, out[0, length:].tolist()

    for part, asked in zip(found, (first, second, second), strict=True):
        assert [seen(answer) for answer in part] == [wanted(r) for r in asked]
    assert found[1][0].cached >= 64  # the same again: pictures and all
    assert found[1][3].cached < 64  # other tokens of the same pictures
    assert found[2][8].cached >= 64  # all of them jointly, the same again


def test_300_pictures_are_encoded_a_few_at_a_time(llava, pictures, tmp_path):
    """The scheduler counts what is kept, and admits them all together."""
    folder, mark, _ = llava
    prompt = f"USER: {mark * 10}\ncount the digits . ASSISTANT:"
    asked = [
        Request(prompt, [pictures[(i + j) % 6] for j in range(10)], {"keep": 1 + i % 9},
                uuids=[f"{i}-{j}" for j in range(10)], tokens=2)
        for i in range(30)
    ]  # fmt: skip
    (found,) = answers(
        tmp_path, folder, [asked], max_num_seqs=64, max_num_batched_tokens=2048,
        limit_mm_per_prompt={"image": 10}, mm_processor_cache_gb=0,
    )  # fmt: skip
    assert all(len(answer.ids) == 2 for answer in found)
    encoded = json.loads((tmp_path / "job.encoded.json").read_text())["pictures"]
    assert sum(encoded) == 300
    assert max(encoded) <= 2048 // 16  # what the encoder's memory was measured with


def test_an_answer_bound_to_choices(pictures):
    prompt = "USER: <image>\nis it red ? ASSISTANT:"
    asked = Request(prompt, [pictures[0]], {"keep": 5}, structured={"choice": ["red", "blue"]})
    ((found,),) = shared(POCKET).ask([[asked]])
    assert found.text.strip() in ("red", "blue")


def test_a_context_shorter_than_an_unpruned_picture(pictures, tmp_path):
    """128 tokens, where the picture alone has 196."""
    prompt = "USER: <image>\nwhat color is the circle ? ASSISTANT:"
    asked = [Request(prompt, [path], tokens=3) for path in pictures]
    (found,) = answers(
        tmp_path, POCKET, [asked], max_model_len=128, max_num_batched_tokens=128,
        mm_processor_kwargs={"sparevlm": {"keep": 24}},
    )  # fmt: skip
    other = Transformers(POCKET)
    assert [seen(a) for a in found] == [other.answer(r, 24, "original") for r in asked]


def test_tensor_parallel(pictures, tmp_path):
    prompt = "USER: <image>\nwhat color is the circle ? ASSISTANT:"
    asked = [Request(prompt, [path], tokens=3) for path in pictures]
    two = "USER: <image> is it like <image>\nwhat color is it ? ASSISTANT:"
    asked.append(Request(two, pictures[:2], {"keep": 24, "per": "prompt"}, tokens=3))
    (found,) = answers(
        tmp_path, POCKET, [asked], tensor_parallel_size=2,
        mm_processor_kwargs={"sparevlm": {"keep": 24}},
    )  # fmt: skip
    other = Transformers(POCKET)
    wanted = [wanted_of(other, request, "original", keep=24) for request in asked]
    assert [seen(answer) for answer in found] == wanted


def test_guided_by_the_question(pictures):
    """Pocket has its text tower beside it; the choice follows the question."""
    mark = "<image>"
    words = ["where is the red circle ?", "which digit is in the picture ?"]
    asked = [
        Request(f"USER: {mark}\n{w} ASSISTANT:", [pictures[0]],
                {"keep": 9, "guidance": "anti", "strength": 1.0})
        for w in words
    ]  # fmt: skip
    two, jointly = f"USER: {mark} {mark}\n{words[0]} ASSISTANT:", {"per": "prompt"}
    asked.append(Request(two, pictures[:2], asked[0].sparevlm | jointly))
    plain = [Request(r.prompt, r.pictures, {"keep": 9}) for r in asked]
    found, unguided = shared(POCKET).ask([asked, plain])
    other = Transformers(POCKET)
    for answer, request in zip(found, asked, strict=True):
        assert seen(answer) == wanted_of(other, request, "compact")
    for answer, request in zip(unguided, plain, strict=True):
        assert seen(answer) == other.answer(request, 9, "compact")


def test_what_is_wrong_is_refused_and_the_next_is_answered(pictures):
    prompt = "USER: <image>\nis it red ? ASSISTANT:"
    wrong = [{"keep": 0}, {"keep": 5, "method": "visionzip"}, {"keep": 5, "colour": "red"}]
    rounds = [[Request(prompt, [pictures[0]], setting)] for setting in wrong]
    rounds.append([Request(prompt, [pictures[0]], {"keep": 10**6})])
    rounds.append([Request("USER: is it red ? ASSISTANT:", [], {"keep": 5})])
    *refused, (above,), (text,) = shared(POCKET).ask(rounds)
    words = ["leaves no tokens", "encoder attention", "no setting colour"]
    for (answer,), word in zip(refused, words, strict=True):
        assert word in answer.error
    assert len(above.ids) == len(text.ids) == 8


@pytest.mark.parametrize(
    ("setting", "words"),
    [({"keep": 0}, "leaves no tokens"), ({"keep": 5, "method": "fastervlm"}, "encoder attention")],
)
def test_a_wrong_setting_ends_the_start(llava, tmp_path, setting, words):
    folder, _, _ = llava
    with pytest.raises(AssertionError, match=words):
        answers(tmp_path, folder, [], mm_processor_kwargs={"sparevlm": setting})
