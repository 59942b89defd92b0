"""Videos, alone and beside pictures, through every family that takes them."""

from __future__ import annotations

import copy

import accelerate
import numpy as np
import pytest
import torch
from PIL import Image

from sparevlm.budgets import Residual
from sparevlm.families import FAMILIES
from sparevlm.hf.encode import encode
from sparevlm.hf.media import VIDEO
from sparevlm.hf.pruning import Pruning
from sparevlm.methods import SPARE, DownsampledImage, NoImage
from tests.families import BUILDERS
from tests.families.common import clip
from tests.families.matrix import ONE as PICTURE
from tests.families.matrix import (
    TEXT,
    answer,
    by_hand,
    facts,
    made,
    near,
    new,
    skip_where_static_is_wrong,
    spare,
    token_kinds,
)
from tests.families.videos import REAL

ONE = "user : <video> what color is the star ? assistant :"
SHORT = "user : <video> count the digits . assistant :"
MIXED = "user : <image> <video> is the star of the picture in the video ? assistant :"
KEEP = 3

NAMES = [name for name in sorted(BUILDERS) if facts(made(name)).video != "no"]
# SmolVLM's processor, and the GLMs' models, take pictures or videos.
MIXING = [n for n in NAMES if n != "smolvlm" and facts(made(n)).video != "marks"]
# Their processors have a limit of pixels for a whole video, not for a frame; the stand-in for
# VideoLLaMA's has one for a frame.
WHOLE = [
    name
    for name in NAMES
    if name.startswith(("qwen3", "glm")) or (name == "video_llama_3" and REAL)
]
PROMPTS = [(name, ONE) for name in NAMES] + [(name, MIXED) for name in MIXING]


@pytest.fixture(params=NAMES)
def family(request):
    return made(request.param)


def steps(family, frames):
    """Frames, or pairs of them where a family makes one step of two."""
    pair = getattr(family.processor.video_processor, "temporal_patch_size", 1)
    return -(-frames // pair)


def stock(family, inputs):
    """Logits with nothing pruned."""
    try:
        return family.model(**inputs).logits
    except ValueError as error:
        if "num_frames_per_video" in str(error):
            pytest.skip("in transformers 5.19 Gemma 4's own forward loses the numbers of frames")
        raise


def batch(family):
    return (MIXED, SHORT, TEXT) if family.name in MIXING else (ONE, SHORT, TEXT)


def half_still(number):
    """A video whose left half shows one scene, and whose right half another in every frame."""
    frames = clip(number)
    half = frames.shape[2] // 2
    frames[:, :, :half] = frames[:1, :, :half]
    return frames


def singles(family, prompts, film=clip):
    """The inputs of each prompt alone, with the picture and video it had in the batch."""
    videos = pictures = 0
    for prompt in prompts:
        yield family.inputs(prompt, first=pictures, film=lambda i, at=videos: film(at))
        videos += prompt.count("<video>")
        pictures += prompt.count("<image>")


@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_keep_all_is_bit_identical(name, prompt):
    family = made(name)
    inputs = family.inputs(prompt)
    with torch.no_grad():
        logits, tokens = stock(family, inputs), answer(family, inputs)
        with spare(1.0)(family.model) as handle:
            assert torch.equal(family.model(**inputs).logits, logits)
            assert torch.equal(answer(family, inputs), tokens)
    assert all(frame.before == frame.after for frame in handle.report)


@pytest.mark.parametrize("settings", [{}, {"per": "prompt"}, {"positions": "compact"}])
@pytest.mark.parametrize(("name", "prompt"), PROMPTS)
def test_equals_a_reference_by_hand(name, prompt, settings):
    family = made(name)
    if settings.get("positions") == "compact" and facts(family).mrope:
        pytest.skip("positions of several axes cannot be renumbered")
    inputs = family.inputs(prompt)
    with torch.no_grad(), spare(KEEP, **settings)(family.model) as handle:
        found = family.model(**inputs).logits
    original = settings.get("positions") != "compact"
    expected = by_hand(family, inputs, handle.report, original)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    if settings.get("per") == "prompt":
        (group,) = handle.report
        assert group.after == sum(group.shares) == KEEP
    else:
        assert {frame.after for frame in handle.report} == {KEEP}
    with torch.no_grad():
        full = stock(family, inputs)
    assert not torch.allclose(found[0, -1], full[0, -1])


def test_each_frame_has_its_budget_and_says_what_it_is(family):
    with torch.no_grad(), spare(KEEP)(family.model) as handle:
        family.model(**family.inputs(ONE))
    assert len(handle.report) == steps(family, 6)
    kind = "image" if facts(family).video == "pictures" else "video"
    assert {(frame.kind, frame.row) for frame in handle.report} == {(kind, 0)}
    grids = {frame.grid for frame in handle.report[:-1]}
    (grid,) = grids
    assert grid[0] * grid[1] == handle.report[0].before


@pytest.mark.parametrize("frames", [2, 3, 5])
def test_videos_of_other_lengths(family, frames):
    """Of an odd number of frames the last counts twice where two make one step."""
    inputs = family.inputs(ONE, film=lambda i: clip(i, frames))
    with torch.no_grad(), spare(KEEP)(family.model) as handle:
        found = family.model(**inputs).logits
    assert len(handle.report) == steps(family, frames)
    expected = by_hand(family, inputs, handle.report, True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_two_videos_of_unlike_shape(family):
    """One wide and one high; of unlike length too, where a processor can put them together."""
    if family.name == "molmo2":
        pytest.skip("its processor takes one video a prompt")
    shaped = "video_grid_thw" in family.inputs(ONE)
    lengths = (6, 3) if shaped else (6, 6)

    def film(i):
        frames = clip(i, lengths[i])
        return frames.swapaxes(1, 2) if i else frames

    inputs = family.inputs("user : <video> <video> which one has a star ? assistant :", film=film)
    with torch.no_grad(), spare(KEEP)(family.model) as handle:
        found = family.model(**inputs).logits
    assert len(handle.report) == sum(steps(family, length) for length in lengths)
    if shaped:
        first, last = (handle.report[i].grid for i in (0, -1))
        assert first[0] < first[1] and last[0] > last[1]
    expected = by_hand(family, inputs, handle.report, True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_singles(family, side):
    prompts = batch(family)
    both = family.inputs(*prompts, side=side)
    with torch.no_grad(), spare(KEEP)(family.model):
        out = family.model(**both).logits
        told = new(both, answer(family, both)) if side == "left" else None
        for row, one in enumerate(singles(family, prompts)):
            alone = family.model(**one).logits[0]
            found = out[row][-len(alone) :] if side == "left" else out[row][: len(alone)]
            torch.testing.assert_close(found, alone, **near(family))
            if told is not None:
                assert torch.equal(told[row], new(one, answer(family, one))[0])


def test_beams(family):
    prompts = batch(family)[:2]
    both = family.inputs(*prompts)
    options = {"num_beams": 3, "num_return_sequences": 2}
    with spare(KEEP)(family.model):
        found = new(both, answer(family, both, **options))
        for row, one in enumerate(singles(family, prompts)):
            alone = new(one, answer(family, one, **options))
            assert torch.equal(found[2 * row : 2 * row + 2], alone)


def test_static_cache(family):
    skip_where_static_is_wrong(family)
    inputs = family.inputs(ONE, SHORT)
    with spare(KEEP)(family.model):
        expected = answer(family, inputs)
        assert torch.equal(answer(family, inputs, cache_implementation="static"), expected)


def test_a_second_turn(family, named):
    inputs = family.inputs(ONE)
    with spare(KEEP)(family.model):
        first = answer(family, inputs, return_dict_in_generate=True)
        follow = family.processor.tokenizer(TEXT, return_tensors="pt")["input_ids"][:, 1:]
        whole = {"input_ids": torch.cat([first.sequences, follow], 1)}
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        if "mm_token_type_ids" in inputs:
            kinds = torch.zeros_like(whole["input_ids"])
            kinds[:, : inputs["input_ids"].shape[1]] = inputs["mm_token_type_ids"]
            whole["mm_token_type_ids"] = kinds
        found = answer(family, whole, **named(first.past_key_values))
        rest = {k: v for k, v in inputs.items() if k not in whole}
        assert torch.equal(found, answer(family, whole | rest))


def test_labels(family):
    inputs = family.inputs(ONE)
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    with torch.no_grad(), spare(KEEP)(family.model):
        out = family.model(**inputs, labels=labels)
    logits = out.logits[0, -5:-1].float()
    expected = torch.nn.functional.cross_entropy(logits, labels[0, -4:])
    torch.testing.assert_close(out.loss.float(), expected, rtol=1e-4, atol=1e-4)


def joint(family, film, keep):
    inputs = family.inputs(ONE, film=film)
    with torch.no_grad(), spare(keep, per="prompt")(family.model) as handle:
        family.model(**inputs)
    (group,) = handle.report
    return group


def still(frames, width=160, height=120):
    """A video that shows one scene."""
    scene = Image.fromarray(clip(3, 1)[0]).resize((width, height))
    return np.asarray(scene)[None].repeat(frames, 0)


def frame_size(family, film):
    """Height and width of the frames as the encoder gets them, in pixels or patches."""
    inputs = family.inputs(ONE, film=film)
    if "video_grid_thw" in inputs:
        return inputs["video_grid_thw"][0, 1:].tolist()
    return list(inputs.get("pixel_values_videos", inputs.get("pixel_values")).shape[-2:])


def test_a_still_video_collapses(family):
    """Twelve equal frames need the tokens that two of their size need, all from the first.

    Of their size: Qwen3-VL, Qwen3.5 and the GLMs have a limit of pixels for a whole video, which
    shrinks the frames of a longer one. These are small enough for it.
    """
    films = [lambda i, n=n: still(n, 48, 32) for n in (2, 12)]
    assert frame_size(family, films[0]) == frame_size(family, films[1])
    short, long = (joint(family, film, Residual(0.01)) for film in films)
    assert long.before > 5 * short.before and long.after == short.after
    assert long.shares[0] == long.after and not any(long.shares[1:])


def test_a_still_video_of_frames_that_shrink(family):
    """Larger frames may have to be smaller in a longer video; all tokens are the first's still."""
    films = [lambda i, n=n: still(n) for n in (2, 12)]
    few, many = (frame_size(family, film) for film in films)
    assert (few > many) == (family.name in WHOLE) and (few == many) == (family.name not in WHOLE)
    group = joint(family, films[1], Residual(0.01))
    assert group.shares[0] == group.after and not any(group.shares[1:])


def test_a_cut_gets_its_share(family):
    """After a cut, the first frame of the new shot is kept from, and no other of it."""
    one = joint(family, lambda i: still(12), Residual(0.01))

    def film(i):
        return np.concatenate([clip(3, 1).repeat(6, 0), clip(4, 1).repeat(6, 0)])

    group = joint(family, film, Residual(0.01))
    cut = len(group.shares) // 2
    assert group.shares[0] > 0 and group.shares[cut] > 0
    assert group.shares[0] + group.shares[cut] == group.after > one.after


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_the_end_of_a_video_is_no_part_of_its_last_frame(frames):
    """A separator, which is never to be kept: with one frame, too, where no other is shorter."""
    family = made("llava_onevision")
    inputs = family.inputs(ONE, film=lambda i: clip(i, frames))
    with torch.no_grad():
        found = encode(
            Pruning(spare(), family.model, facts(family), None), VIDEO, inputs, hidden=False
        )
    end = family.model.base_model.image_newline
    assert torch.equal(found.features[-1][-1], end)
    assert [len(rows) for rows in found.features] == [4] * (frames - 1) + [5]
    *others, last = (tokens.candidates for tokens in found.tokens)
    assert last.tolist() == [True] * 4 + [False] and others == [None] * (frames - 1)


def test_guidance_does_not_read_the_times_of_frames(family):
    """Between its frames a prompt says when they were; the question comes after them."""
    seen = []
    given = {"relevance": "llm", "tokenizer": family.processor.tokenizer}
    inputs = family.inputs(ONE)
    with torch.no_grad(), SPARE(KEEP, strength=1.0).attach(family.model, **given) as handle:
        queries = handle._pruning.guidance.queries

        def spy(pictures, prompts):
            seen.extend(prompts.values())
            return queries(pictures, prompts)

        object.__setattr__(handle._pruning.guidance, "queries", spy)
        family.model(**inputs)
    assert all(frame.scores is not None for frame in handle.report)
    if facts(family).video == "pictures":
        return  # nothing tells their frames from pictures with words between them
    kinds = token_kinds(family, inputs)[0].nonzero()[:, 0]
    outside = torch.ones_like(inputs["input_ids"][0], dtype=torch.bool)
    outside[kinds[0] : kinds[-1] + 1] = False
    assert all(torch.equal(ids, inputs["input_ids"][0][outside]) for ids in seen)


def test_nothing_of_it(family):
    for prompt in (ONE, MIXED) if family.name in MIXING else (ONE,):
        inputs = family.inputs(prompt)
        with NoImage()(family.model) as handle:
            answer(family, inputs)
        assert {frame.after for frame in handle.report} == {0}


def test_pictures_are_not_encoded_again():
    family = made("qwen2_vl")
    with (
        DownsampledImage(4)(family.model),
        torch.no_grad(),
        pytest.raises(ValueError, match="DownsampledImage encodes pictures again"),
    ):
        family.model(**family.inputs(ONE))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"smolvlm", *MIXING}))
def test_a_picture_and_a_video_where_the_model_takes_one(name):
    family = made(name)
    inputs = family.inputs(MIXED)
    with spare()(family.model), pytest.raises(ValueError, match="pictures or videos in one call"):
        family.model(**inputs)


def test_placeholders_that_do_not_fit(family):
    if facts(family).video == "pictures":
        pytest.skip("these are pictures, and tested as such")
    inputs = family.inputs(ONE)
    kinds = inputs["input_ids"] == family.model.config.video_token_id
    if facts(family).video == "marks":
        kinds = inputs["input_ids"] == family.model.config.image_token_id
    column = int(kinds[0].nonzero()[0])
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in inputs:
            value = inputs[name]
            inputs[name] = torch.cat([value[:, :column], value[:, column + 1 :]], 1)
    with spare(KEEP)(family.model), pytest.raises(ValueError, match=r"one <video> .* each video"):
        family.model(**inputs)
    words = family.processor.tokenizer(TEXT, return_tensors="pt")
    pixels = {k: v for k, v in inputs.items() if "video" in k}
    with spare(KEEP)(family.model), pytest.raises(ValueError, match="videos and no placeholder"):
        family.model(input_ids=words["input_ids"], **pixels)


def test_pictures_alone_are_as_before(family):
    """A family that takes videos prunes pictures with and without one in the batch alike."""
    if family.name not in MIXING:
        pytest.skip("takes no picture beside a video")
    both = family.inputs(PICTURE, SHORT)
    with torch.no_grad(), spare(KEEP)(family.model) as handle:
        family.model(**both)
        beside = handle.report[0]
        family.model(**family.inputs(PICTURE))
    assert torch.equal(handle.report[0].indices, beside.indices) and beside.kind == "image"


def test_every_family_says_whether_it_takes_video():
    assert {f.video for f in FAMILIES.values()} == {"no", "pictures", "tokens", "marks"}


def test_a_video_in_a_second_turn(family, named):
    """Over the cache of a first video, or all at once: the same answer."""
    if family.name == "molmo2":
        pytest.skip("its processor takes one video a prompt")
    inputs = family.inputs(ONE)
    both = family.inputs(ONE + " " + SHORT)
    with spare(KEEP)(family.model):
        first = answer(family, inputs, steps=1, return_dict_in_generate=True)
        told = inputs["input_ids"].shape[1]
        assert torch.equal(both["input_ids"][:, :told], inputs["input_ids"])
        # The one word of the first answer goes in between.
        whole = {}
        for name, value in both.items():
            whole[name] = value
            if name in ("input_ids", "attention_mask", "mm_token_type_ids"):
                word = {"input_ids": first.sequences[:, told:], "attention_mask": 1}.get(name, 0)
                word = torch.zeros(1, 1, dtype=value.dtype) + word
                whole[name] = torch.cat([value[:, :told], word, value[:, told:]], 1)
        found = answer(family, whole, **named(first.past_key_values))
        assert torch.equal(found, answer(family, whole))


def test_tokens_that_the_processor_leaves_out(monkeypatch):
    """VideoLLaMA's processor drops what repeats the frame before; the budget is for the rest."""
    family = made("video_llama_3")
    whole = family.inputs(ONE, film=half_still)
    monkeypatch.setattr(family.processor.video_processor, "use_token_compression", True)
    inputs, both = (family.inputs(*p, film=half_still) for p in ((MIXED,), batch(family)))
    fewer = family.inputs(ONE, film=half_still)
    assert fewer["input_ids"].shape[1] < whole["input_ids"].shape[1]
    with torch.no_grad():
        logits = family.model(**inputs).logits
        with spare(1.0)(family.model):
            assert torch.equal(family.model(**inputs).logits, logits)
        with spare(KEEP)(family.model) as handle:
            found = family.model(**inputs).logits
            report = handle.report
            expected = by_hand(family, inputs, report, True)
            told = new(both, answer(family, both))
            for row, one in enumerate(singles(family, batch(family), half_still)):
                assert torch.equal(told[row], new(one, answer(family, one))[0])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    frames = [frame for frame in report if frame.kind == "video"]
    assert {frame.after for frame in frames} == {KEEP} and len(frames) == 6
    assert {frame.grid for frame in frames} == {None}


def test_prune_inputs(family):
    inputs = family.inputs(*batch(family)[:2])
    shorter = spare(KEEP).prune_inputs(family.model, inputs)
    assert shorter["input_ids"].shape[1] < inputs["input_ids"].shape[1]
    with torch.no_grad(), spare(KEEP)(family.model):
        expected = family.model(**inputs).logits
    with torch.no_grad():
        found = family.model(**shorter).logits
    torch.testing.assert_close(found[:, -1], expected[:, -1])


@pytest.mark.parametrize("name", sorted({*MIXING, "smolvlm"} - {"gemma4", "llava_onevision"}))
def test_offloaded_weights(name):
    family = made(name)
    inputs = family.inputs(ONE, SHORT)
    with spare(KEEP)(family.model):
        expected = answer(family, inputs)
    moved = copy.deepcopy(family)
    accelerate.cpu_offload(moved.model, execution_device=torch.device("cpu"))
    with spare(KEEP)(moved.model):
        assert torch.equal(answer(moved, inputs), expected)
