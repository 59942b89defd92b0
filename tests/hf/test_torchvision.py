"""Real image and video processors, as those get them who have torchvision.

With it the builders of `tests/families` hold them, so that the other tests run with them too.
"""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from bench.processors import KEEP as KEPT
from bench.processors import QUESTION, SCENES, pairs
from sparevlm import cli
from sparevlm.pocket.scenes import draw_scene
from tests import families
from tests.families import newer
from tests.families.common import clip
from tests.families.matrix import by_hand, facts, made, spare
from tests.families.videos import REAL, times

pytestmark = pytest.mark.skipif(not REAL, reason="needs torchvision: make test-torchvision")

KEEP = 2
# Without the latest families, which the other tests run with theirs.
BUILDERS = {n: make for n, make in families.BUILDERS.items() if n not in newer.BUILDERS}
FILM = "user : <video> what color is the star ? assistant :"
TWO = "user : <video> <video> which one has a star ? assistant :"
VIDEO = [name for name in sorted(BUILDERS) if facts(made(name)).video != "no"]
WHOLE = [name for name in VIDEO if name.startswith(("qwen3", "glm"))]
STACKED = [name for name in VIDEO if not facts(made(name)).grids and name != "smolvlm"]
ALONE = ("cohere2_vision", "perception_lm")  # PIL has none of theirs
SIZES = [
    (112, 112), (200, 120), (90, 180), (300, 20), (20, 300), (40, 40), (500, 333), (57, 113),
    (8, 8), (99, 101), (58, 326), (640, 480),
]  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}user : {% for part in message['content'] %}"
    "{{ mark if part['type'] == 'video' else part['text'] }} {% endfor %}{% endfor %}assistant :"
)
# Of 24 frames, four a second: what a user asks for, and the frames that there are then.
SAMPLED = {
    "llava_onevision": ({"num_frames": 4}, 4),
    "llava_next_video": ({"num_frames": 4}, 4),
    "perception_lm": ({"fps": 1.0}, 6),
    "internvl": ({"num_frames": 4}, 4),
    "smolvlm": ({}, 6),  # one a second
    "qwen2_vl": ({"num_frames": 4}, 4),
    "qwen2_5_vl": ({"fps": 1.0}, 6),
    "qwen3_vl": ({}, 12),  # two a second
    "qwen3_vl_moe": ({"fps": 1.0}, 6),
    "qwen3_5": ({}, 12),
    "qwen3_5_moe": ({"fps": 3.0}, 18),
    "glm4v": ({}, 12),
    "glm4v_moe": ({"fps": 1.0}, 6),
    "glm46v": ({"fps": 1.0}, 24),  # by the length of the video alone
}


def direct(family, prompt, videos, **options):
    """Tensors of one prompt from the processor itself."""
    found = family.processor(
        text=[family._written(prompt)],
        videos=[videos] if family.nested else videos,
        return_tensors="pt",
        **options,
    )
    return in_double(family, found)


def in_double(family, found):
    return {
        name: value.to(family.model.dtype) if value.is_floating_point() else value
        for name, value in found.items()
    }


def equals_the_hand(family, inputs):
    """The report, after pruned logits were compared with rows put together by hand."""
    with torch.no_grad(), spare(KEEP)(family.model) as handle:
        found = family.model(**inputs).logits
    expected = by_hand(family, inputs, handle.report, True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return handle.report


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_these_are_the_processors_that_a_user_gets(name):
    family = made(name)
    images = type(family.processor.image_processor)
    assert not images.__name__.endswith("Pil") and images.__module__.startswith("transformers.")
    if name not in VIDEO:
        return
    video = type(family.processor.video_processor)
    assert video.__module__.startswith("transformers.")
    known = VIDEO_PROCESSOR_MAPPING_NAMES.get(family.model.config.model_type)
    known = known.get("torchvision") if isinstance(known, dict) else known
    assert known in (None, video.__name__)


@pytest.mark.parametrize("name", [name for name in sorted(BUILDERS) if name not in ALONE])
def test_pictures_are_laid_out_as_by_pil(name):
    """The same tiles, grids and sizes, whatever the picture; pixels but for what scaling rounds."""
    family = made(name)
    ours = family.processor.image_processor
    pil = getattr(transformers, type(ours).__name__ + "Pil").from_dict(ours.to_dict())
    for size in SIZES:
        picture = draw_scene(1).picture().resize(size)
        here, there = (
            made([[picture]] if family.nested else [picture], return_tensors="pt")
            for made in (ours, pil)
        )
        assert here.keys() == there.keys()
        for key in here.keys() - {"pixel_values"}:
            assert torch.equal(torch.as_tensor(here[key]), torch.as_tensor(there[key]))
        levels = (here["pixel_values"] - there["pixel_values"]).abs() * 255 * 0.25
        assert levels.max() < 5.1


@pytest.mark.parametrize("name", VIDEO)
def test_frames_that_the_processor_samples(name):
    family, (options, frames) = made(name), SAMPLED[name]
    known = {"do_sample_frames": True, "video_metadata": [times(24)]}
    report = equals_the_hand(family, direct(family, FILM, [clip(1, 24)], **known, **options))
    assert len(report) == (frames // 2 if facts(family).grids else frames)


@pytest.mark.parametrize("name", VIDEO)
def test_a_template_gives_the_same(name):
    family, film = made(name), clip(1)
    known = {"do_sample_frames": False, "video_metadata": [times(len(film))]}
    text = {"type": "text", "text": "what color is the star ?"}
    found = family.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video", "video": film}, text]}],
        chat_template=TEMPLATE.replace("mark", repr(family.video)),
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs=known,
    )
    inputs = in_double(family, found)
    expected = family.inputs(FILM, first=1)
    assert inputs.keys() == expected.keys()
    assert all(torch.equal(inputs[key], value) for key, value in expected.items())
    equals_the_hand(family, inputs)


@pytest.mark.parametrize("name", VIDEO)
def test_a_video_of_one_frame(name):
    family = made(name)
    known = {"do_sample_frames": False, "video_metadata": [times(1)]}
    if name in WHOLE:
        with pytest.raises(ValueError, match="t:1 must be larger than temporal_factor:2"):
            direct(family, FILM, [clip(1, 1)], **known)
        return
    (frame,) = equals_the_hand(family, direct(family, FILM, [clip(1, 1)], **known))
    assert frame.after == KEEP


@pytest.mark.parametrize("name", VIDEO)
def test_videos_of_unlike_length(name):
    family = made(name)
    known = {"do_sample_frames": False, "video_metadata": [times(6), times(4)]}
    films = [clip(1, 6), clip(2, 4)]
    if name in STACKED:
        with pytest.raises(ValueError, match="stack expects each tensor to be equal size"):
            direct(family, TWO, films, **known)
        return
    inputs = direct(family, TWO, films, **known)
    report = equals_the_hand(family, inputs)
    assert len(report) == (3 + 2 if facts(family).grids else 6 + 4)
    if name == "smolvlm":  # it writes that both have six, as the shorter one is padded
        words = family.processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0].tolist())
        assert words.count("6") == 2 and words.count("<global-img>") == 6 + 4


@pytest.mark.parametrize("size", [(112, 112), (224, 224), (640, 480)])
def test_ask_keeps_what_it_keeps_with_pil(size):
    """Scaling rounds differently; at the pocket model's own size nothing is scaled."""
    found = pairs(size)
    assert all(pair.answers[0] == pair.answers[1] for pair in found)
    off = torch.cat([(pair.levels > 0.5).flatten() for pair in found])
    assert max(float(pair.levels.max()) for pair in found) < 1.01
    same = sum(pair.kept[0] == pair.kept[1] for pair in found)
    if size == (112, 112):
        assert not off.any() and same == SCENES
    assert off.double().mean() < 0.01
    assert same >= SCENES - 2 and min(pair.shared for pair in found) >= KEPT - 1


def test_ask_on_the_command_line(tmp_path, capsys):
    draw_scene(1).picture().save(tmp_path / "scene.png")
    assert cli.main(["ask", str(tmp_path / "scene.png"), QUESTION, "--json", "--compare"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kept_tokens"] == KEPT and found["visual_tokens"] == 196
