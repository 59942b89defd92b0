"""Dropping inside the decoder: against full attention matrices, and against masking."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from bench.masked import layers_of, masking
from sparevlm import hf
from sparevlm.hf.decoder.probe import Taken
from sparevlm.hf.decoder.shorter import shorter_mask
from sparevlm.methods import SPARE, FastV, PyramidDrop, Staged, get_method, list_methods
from sparevlm.methods.in_decoder import DecoderMethod, averaged
from sparevlm.tokens import Reduction
from tests.families import BUILDERS, grids_and_tiles, onedim
from tests.families.matrix import (
    ONE,
    SHORT,
    TEXT,
    TWO,
    answer,
    made,
    new,
    token_kinds,
)
from tests.hf import test_video

# Why a family's language model cannot be pruned inside; of the tiny models, not of their kind.
REFUSED = {
    "gemma4": "cannot work inside Gemma4TextModel",
    "gemma4_moe": "cannot work inside Gemma4TextModel",
    "gemma4_unified": "cannot work inside Gemma4UnifiedTextModel",
    "kimi_k25": "no layers with separate queries and keys",  # latent attention
    "lfm2_vl": "no layers with separate queries and keys",  # convolutions in between
    "qwen3_5": "no layers with separate queries and keys",  # linear attention in between
    "qwen3_5_moe": "no layers with separate queries and keys",
    "qwen3_vl": "add features to every visual token",  # in all of its two layers
    "qwen3_vl_moe": "add features to every visual token",
}
PROMPTS = [(name, prompt) for name in sorted(set(BUILDERS) - set(REFUSED)) for prompt in (ONE, TWO)]
VIDEOS = [(name, prompt) for name, prompt in test_video.PROMPTS if name not in REFUSED]
PROMPTS += VIDEOS
NAMES = sorted({name for name, _ in PROMPTS})
BATCHES = [(name, "pictures") for name in (*NAMES, "four layers")]
BATCHES += [(name, "videos") for name in sorted({name for name, _ in VIDEOS})]


@dataclass(frozen=True)
class Stages(DecoderMethod):
    """What the last word attends to, at any layers, in the layer before or the coming one."""

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_next_attention"})
    at: tuple[int, ...] = (1,)
    asking: str = "last"

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        return {layer: float(2 ** (len(self.at) - 1 - i)) for i, layer in enumerate(self.at)}

    def choose(self, tokens, k: int) -> Reduction:
        coming = self.asking == "next"
        paid = tokens.last_next_attention() if coming else tokens.last_attention()
        order = paid.argsort(descending=True, stable=True)
        return Reduction.picked(order[:k])


def literal(model: Any, inputs: dict[str, Tensor], columns: list[Tensor], schedule, asking="last"):
    """Columns of each picture that full attention leaves, and those it drops, stage by stage.

    One prompt; columns of its pictures; schedule {layer: tokens of each picture}. The whole model
    runs anew for each stage, with eager attention and everything materialised.
    """
    # The two may differ: GOT-OCR's vision tower is always eager, and so is the model by name.
    parts = (model, model.base_model.get_decoder())
    before = [part.config._attn_implementation for part in parts]
    model.set_attn_implementation("eager")
    left, dropped = list(columns), {}
    try:
        for at, counts in schedule.items():
            with torch.no_grad(), masking(model, dropped):
                out = model(**copy.copy(inputs), output_attentions=True, use_cache=False)
            paid = out.attentions[at if asking == "next" else at - 1][0].mean(0)
            if asking == "all":
                paid = paid.fill_diagonal_(0).sum(0)[None]
            gone = []
            for i, k in enumerate(counts):
                order = paid[-1, left[i]].argsort(descending=True, stable=True)
                chosen = left[i][order[:k]].sort().values
                gone.append(left[i][~torch.isin(left[i], chosen)])
                left[i] = chosen
            dropped[at] = [torch.cat(gone)]
    finally:
        for part, name in zip(parts, before, strict=True):
            part.set_attn_implementation(name)
    return left, dropped


def four_layers():
    """Qwen3-VL, whose first layers add features to visual tokens."""
    return grids_and_tiles._qwen3("Qwen3VL", num_hidden_layers=4)


def check_equals_masking(family, prompt, method, schedule_of, **settings) -> None:
    """The same decisions as full attention matrices make, and the same words as masking gives."""
    inputs = family.inputs(prompt)
    with method(family.model) as handle:
        found = new(inputs, answer(family, inputs))
        report = handle.report
    columns = token_kinds(family, inputs)[0].nonzero()[:, 0].split([one.before for one in report])
    left, dropped = literal(family.model, inputs, columns, schedule_of(report), **settings)
    for one, mine, kept in zip(report, columns, left, strict=True):
        assert torch.equal(mine[one.indices], kept)
        assert sum(one.shares) == one.after < one.before
    with masking(family.model, dropped):
        assert torch.equal(found, new(inputs, answer(family, inputs)))


@pytest.mark.parametrize("asking", ["last", "next"])
@pytest.mark.parametrize(("name", "prompt"), [*PROMPTS, ("four layers", ONE), ("four layers", TWO)])
def test_equals_full_attention_matrices_and_masking(wide, name, prompt, asking) -> None:
    family = wide(four_layers() if name == "four layers" else made(name))
    last = len(layers_of(family.model)) - 1
    method = Stages(keep=0.34, at=(last,), asking=asking, average=False)
    counts = lambda report: {last: [r.after for r in report]}  # noqa: E731
    check_equals_masking(family, prompt, method, counts, asking=asking)


@pytest.mark.parametrize("name", sorted(set(REFUSED) & set(BUILDERS)))
def test_families_that_are_refused(name) -> None:
    with pytest.raises(ValueError, match=REFUSED[name]):
        Stages(keep=3, average=False).attach(made(name).model)


@pytest.mark.parametrize("name", ["aya_vision", "cohere2_vision", "gemma3"])
def test_a_prompt_beyond_the_window_is_refused(name) -> None:
    family = made(name)
    with (
        Stages(keep=3, average=False)(family.model),
        pytest.raises(ValueError, match="longer than the sliding window of 24"),
    ):
        answer(family, family.inputs(TWO))


@pytest.mark.parametrize(
    ("name", "prompt"),
    [("llava", TWO), ("qwen2_5_vl", test_video.MIXED), ("smolvlm", test_video.ONE)],
)
def test_one_budget_for_a_prompt(name, prompt) -> None:
    """Pictures and frames are chosen among jointly."""
    family = made(name)
    method = Stages(keep=6, average=False, per="prompt")
    check_equals_masking(family, prompt, method, lambda report: {1: [6]})
    with method(family.model) as handle:
        answer(family, family.inputs(prompt))
    (one,) = handle.report
    assert len(one.shares) > 1 and sum(one.shares) == 6


@pytest.mark.parametrize("name", ["llava", "gemma3", "paligemma", "qwen2_vl", "mistral3"])
@pytest.mark.parametrize("block", [1, 7, 128])
def test_attention_of_all_words_and_tokens(wide, monkeypatch, name, block) -> None:
    """FastV as its paper says it: the average over all other tokens, in blocks of queries."""
    monkeypatch.setattr("sparevlm.hf.decoder.inside._BLOCK", block)
    method = FastV(keep=0.34, layer=1, asking="all", average=False)
    check_equals_masking(
        wide(made(name)), ONE, method, lambda report: {1: [r.after for r in report]}, asking="all"
    )


@pytest.mark.parametrize(("name", "prompt"), VIDEOS)
def test_staged_on_videos_equals_masking(name, prompt) -> None:
    """Each frame is cut before the language model, and once more inside it."""
    family = made(name)
    inputs = family.inputs(prompt)
    first, then = SPARE(keep=3, guidance="none"), FastV(keep=2, layer=1, average=False)
    shorter = first.prune_inputs(family.model, inputs)
    with first(family.model) as handle:
        answer(family, inputs)
        before = [(one.kind, one.row) for one in handle.report]
    with Staged(first, then)(family.model) as handle:
        found = new(inputs, answer(family, inputs))
        report = handle.report
    assert [(one.before, one.after, one.shares) for one in report] == [(3, 2, (2,))] * len(before)
    assert [(one.kind, one.row) for one in report] == before and len(before) >= 3
    places = token_kinds(family, shorter)[0].nonzero()[:, 0]
    with masking(family.model, {1: [gone(places, report)]}):
        told = answer(family, shorter)
    assert torch.equal(found, new(shorter, told))


def gone(places: Tensor, report) -> Tensor:
    """Columns that pictures, one after the other in `places`, lost."""
    mine = zip(places.split([one.before for one in report]), report, strict=True)
    return torch.cat([c[~torch.isin(torch.arange(len(c)), one.indices)] for c, one in mine])


def rows_of(family, what):
    """Prompts of a batch, the last without a picture where the processor allows it."""
    if what == "videos":
        prompts = test_video.batch(family)
        return prompts, list(test_video.singles(family, prompts))
    prompts = (TWO, SHORT, TEXT) if family.text_only else (TWO, SHORT)
    firsts = [sum(p.count("<image>") for p in prompts[:row]) for row in range(len(prompts))]
    pairs = zip(prompts, firsts, strict=True)
    return prompts, [family.inputs(prompt, first=first) for prompt, first in pairs]


def asker(asking: str, layer: int) -> DecoderMethod:
    if asking == "next":
        return Stages(0.34, at=(layer,), asking=asking, average=False)
    return FastV(0.34, layer=layer, asking=asking, average=False)


@pytest.mark.parametrize("asking", ["last", "all", "next"])
@pytest.mark.parametrize(("name", "what"), BATCHES)
def test_a_batch_of_unlike_prompts_equals_singles(wide, name, what, asking) -> None:
    family = wide(four_layers() if name == "four layers" else made(name))
    method = asker(asking, 2 if name == "four layers" else 1)
    prompts, singles = rows_of(family, what)
    both = family.inputs(*prompts)
    with method(family.model) as handle:
        told, report = new(both, answer(family, both)), handle.report
        beams = new(both, answer(family, both, steps=3, num_beams=2))
        assert [one.row for one in handle.report] == [one.row for one in report]
        for row, one in enumerate(singles):
            handle.report = type(report)()
            assert torch.equal(new(one, answer(family, one))[0], told[row])
            assert torch.equal(new(one, answer(family, one, steps=3, num_beams=2))[0], beams[row])
            mine = [each for each in report if each.row == row]
            for alone, each in zip(handle.report, mine, strict=True):
                assert torch.equal(alone.indices, each.indices)
                assert (alone.before, alone.kind) == (each.before, each.kind)


@pytest.mark.parametrize("asking", ["last", "next"])
@pytest.mark.parametrize("name", ["llava", "cohere2_vision", "mistral3", "qwen2_5_vl", "smolvlm"])
def test_right_padding_of_unlike_prompts(wide, name, asking) -> None:
    family = wide(made(name))
    prompts, singles = rows_of(family, "pictures")
    with torch.no_grad(), asker(asking, 1)(family.model):
        out = family.model(**family.inputs(*prompts, side="right")).logits
        for row, one in enumerate(singles):
            alone = family.model(**one).logits[0]
            # As near as stock comes, whose rotary embeddings are in float32.
            assert torch.allclose(out[row, len(alone) - 1], alone[-1], rtol=1e-4, atol=2e-4)


def test_a_prompt_without_pictures_does_not_hold_others_up() -> None:
    """Its padding goes where the others' tokens go."""
    family = made("llava")
    both = family.inputs(ONE, TEXT)
    with torch.no_grad(), Stages(keep=3, average=False)(family.model) as handle:
        cache = family.model(**both, use_cache=True).past_key_values
    (picture,) = handle.report
    words = int(both["attention_mask"].sum(1)[0]) - picture.before
    assert [cache.get_seq_length(at) for at in (0, 1)] == [words + picture.before, words + 3]


def conversation(family, inputs, first, follow):
    """Inputs of two turns: the first with its answer, then more words."""
    more = family.processor.tokenizer(follow, return_tensors="pt")["input_ids"][:, 1:]
    ids = torch.cat([first, more], 1)
    whole = {**inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name in {"token_type_ids", "mm_token_type_ids"} & set(inputs):
        rest = ids.new_zeros(1, ids.shape[1] - inputs[name].shape[1])
        whole[name] = torch.cat([inputs[name], rest], 1)
    return whole


@pytest.mark.parametrize("asking", ["last", "all", "next"])
@pytest.mark.parametrize("name", ["llava", "mistral3", "cohere2_vision", "llava_interleave"])
def test_a_picture_in_a_later_turn(wide, name, named, asking) -> None:
    """What was said before it is read from the cache, of the layer that is asked."""
    family = wide(made(name))
    whole = family.inputs("is the red star in the first picture ? " + ONE)
    ids, first = whole["input_ids"], 6
    rest = {k: v for k, v in whole.items() if k.startswith(("pixel", "image"))}
    words = {k: torch.ones_like(ids) for k in ("attention_mask",)}
    with torch.no_grad(), asker(asking, 1)(family.model) as handle:
        family.model(input_ids=ids, **words, **rest)
        expected = handle.report[0].indices
        handle.report = type(handle.report)()
        cache = family.model(input_ids=ids[:, :first], use_cache=True).past_key_values
        family.model(input_ids=ids[:, first:], **words, **rest, **named(cache))
    if asking != "all":  # columns that were cached have no queries any more
        assert torch.equal(handle.report[0].indices, expected)
    assert len(handle.report[0].indices) == len(expected)


def test_the_coming_layer_is_asked_for_little(monkeypatch) -> None:
    """One query, and keys once for all pictures; hooks of others see one run of each layer."""
    family = made("qwen2_5_vl")
    inputs, (_, layer) = family.inputs(test_video.ONE), layers_of(family.model)
    ran, queries, keys = [], [], []
    attention = layer.self_attn
    hooks = [
        attention.register_forward_hook(lambda *_: ran.append(1)),
        attention.q_proj.register_forward_hook(lambda *a: queries.append(a[2].shape[-2])),
        attention.k_proj.register_forward_hook(lambda *a: keys.append(a[2].shape[-2])),
    ]
    length = inputs["input_ids"].shape[1]
    method = Stages(2, asking="next", average=False)
    try:
        with torch.no_grad(), method(family.model) as handle:
            family.model(**inputs)
            family.model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    assert len(handle.report) == 3
    left = length - sum(one.before - one.after for one in handle.report)
    # The first call runs the attention on one column more, to see whether it rotates.
    assert queries == [1, 1, 1, 1, left, 1, 1, 1, left]
    assert keys == [1, 1, length, left, length, left]
    assert ran == [1, 1]


# In these, what was a prompt sees ahead, and what was an answer does not.
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"gemma3", "paligemma"}))
def test_a_second_turn_equals_masking(wide, name, named) -> None:
    family = wide(made(name))
    inputs = family.inputs(ONE)
    with Stages(keep=0.34, average=False)(family.model) as handle:
        first = answer(family, inputs, return_dict_in_generate=True)
        cache, report = first.past_key_values, handle.report
        whole = conversation(family, inputs, first.sequences, TEXT)
        words = {k: v for k, v in whole.items() if not k.startswith(("pixel", "image"))}
        found = answer(family, words, **named(cache))
    assert not {"get_mask_sizes", "get_query_offset"} & set(vars(cache))
    places = token_kinds(family, inputs)[0].nonzero()[:, 0]
    with masking(family.model, {1: [gone(places, report)]}):
        assert torch.equal(found, answer(family, whole))


@pytest.mark.parametrize("kinds", ["full sliding", "sliding full sliding", "sliding sliding full"])
@pytest.mark.parametrize("asking", ["last", "all", "next"])
def test_layers_of_two_kinds(wide, kinds, asking) -> None:
    """Command A's full attention has no rotary embeddings; each kind has its own mask."""
    family = wide(onedim.cohere2_vision(*kinds.split()))
    for at in range(1, len(kinds.split())):
        method = asker(asking, at)
        counts = lambda report, at=at: {at: [one.after for one in report]}  # noqa: E731
        check_equals_masking(family, TWO, method, counts, asking=asking)
        both = family.inputs(TWO, SHORT)
        with method(family.model):
            told = new(both, answer(family, both))
            for row, one in enumerate((family.inputs(TWO), family.inputs(SHORT, first=2))):
                assert torch.equal(new(one, answer(family, one))[0], told[row])


@pytest.mark.parametrize("asking", ["last", "next"])
def test_paligemma_2(asking) -> None:
    """Gemma 2 caps its logits, and its layers are of two kinds."""
    family = onedim.paligemma(onedim.tf.Gemma2Config)
    family.model.set_attn_implementation("eager")
    method = Stages(keep=0.34, asking=asking, average=False)
    counts = lambda report: {1: [r.after for r in report]}  # noqa: E731
    check_equals_masking(family, TWO, method, counts, asking=asking)


@pytest.mark.parametrize(
    ("text", "settings", "why"),
    [
        ("Phi", {}, "no last norm"),
        ("Phi3", {}, "no layers with separate queries and keys"),
        ("Olmo2", {}, "makes its queries and keys in a way that cannot be read"),
        ("StableLm", {}, "makes its queries and keys in a way that cannot be read"),
        ("HunYuanDenseV1", {}, "makes its queries and keys in a way that cannot be read"),
        ("Llama4Text", {}, "rotates queries and keys in a way that cannot be shortened"),
        (
            "Qwen3_5Text",
            {"layer_types": ["full_attention", "linear_attention"]},
            "no layers with separate queries and keys",
        ),
    ],
)
@pytest.mark.parametrize("asking", ["last", "next"])
def test_text_models_that_are_refused(text, settings, why, asking) -> None:
    """A LLaVA may have any language model; the model answers as before once it was refused."""
    family = onedim.llava(text, **settings)
    inputs = family.inputs(ONE)
    stock = answer(family, inputs)
    with pytest.raises(ValueError, match=why), asker(asking, 1)(family.model):
        answer(family, inputs)
    assert torch.equal(answer(family, inputs), stock)


def test_an_answer_that_outgrows_the_window_is_refused(wide) -> None:
    family = wide(made("gemma3"))
    inputs = family.inputs(ONE)
    length = inputs["input_ids"].shape[1]
    family.model.config.get_text_config().sliding_window = length + 2
    with (
        Stages(keep=3, average=False)(family.model),
        pytest.raises(ValueError, match=f"{length + 3} tokens so far, are longer than the sliding"),
    ):
        answer(family, inputs)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "cohere2_vision"])
def test_the_bare_model(wide, name) -> None:
    family = wide(made(name))
    inputs, base = family.inputs(ONE), family.model.base_model
    method = Stages(keep=0.34, average=False)
    with torch.no_grad():
        with method(family.model) as handle:
            logits, report = family.model(**inputs).logits[0, -1], handle.report
        with method(base) as handle:
            hidden = base(**inputs).last_hidden_state[0, -1]
    assert torch.equal(handle.report[0].indices, report[0].indices)
    found = family.model.lm_head(hidden)
    assert int(found.argmax()) == int(logits.argmax())


def test_a_budget_for_each_tile() -> None:
    family = made("internvl")
    method = Stages(keep=2, average=False, per="tile")
    check_equals_masking(family, TWO, method, lambda report: {1: [2] * len(report)})
    with method(family.model) as handle:
        answer(family, family.inputs(TWO))
    assert {(one.before, one.after) for one in handle.report} == {(4, 2)} and len(handle.report) > 2


def test_attention_of_all_is_computed_once_for_all_pictures(monkeypatch) -> None:
    family = made("qwen2_5_vl")
    inputs = family.inputs(test_video.ONE)
    asked = []
    attention = Taken.attention

    def spy(taken, row, columns, seen):
        asked.append(len(columns))
        return attention(taken, row, columns, seen)

    monkeypatch.setattr(Taken, "attention", spy)
    with torch.no_grad(), FastV(2, layer=1, asking="all", average=False)(family.model) as handle:
        family.model(**inputs)
    assert len(handle.report) == 3
    assert asked == [inputs["input_ids"].shape[1]]


def test_masks_for_flash_attention_stay_flat() -> None:
    columns = torch.tensor([[0, 1, 4], [-1, 2, 4]])
    assert shorter_mask(None, None, columns, 3, torch.float32, True).tolist() == [
        [1, 1, 1],
        [0, 1, 1],
    ]
    assert shorter_mask(None, None, columns[:1], 3, torch.float32, True) is None


def test_embeddings_over_a_pruned_cache_are_refused(named) -> None:
    family = made("llava")
    inputs = family.inputs(ONE)
    with torch.no_grad(), Stages(keep=3, average=False)(family.model):
        cache = family.model(**inputs, use_cache=True).past_key_values
        word = family.model.get_input_embeddings()(torch.tensor([[5]]))
        with pytest.raises(ValueError, match="go on from it with input_ids"):
            family.model(inputs_embeds=word, **named(cache))


@pytest.fixture(scope="module")
def pocket():
    return hf.load("pocket")


def pocket_inputs(processor, *questions, pictures=None):
    from sparevlm.pocket.scenes import draw_scene

    prompts = [f"USER: <image>\n{question} ASSISTANT:" for question in questions]
    scenes = [draw_scene(40 + i).picture() for i in range(len(questions))]
    return dict(processor(images=scenes, text=prompts, padding=True, return_tensors="pt"))


QUESTIONS = (
    "what color is the circle ?",
    "what is nearest to the red star ?",
    "how many are red ?",
)


def test_many_stages_on_pocket(pocket) -> None:
    model, processor = pocket
    inputs = pocket_inputs(processor, QUESTIONS[1])
    count = len(layers_of(model))
    method = Stages(keep=9, at=tuple(range(1, count)), average=False)
    schedule = method.schedule(count, 196)
    columns = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    counts = {at: [k] for at, k in schedule.items()}
    (left,), dropped = literal(model, inputs, [columns], counts)
    with method(model) as handle:
        out = model(**inputs, use_cache=True)
        pruned = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)
    assert torch.equal(columns[handle.report[0].indices], left)
    length = inputs["input_ids"].shape[1]
    held = [layer.get_seq_length() for layer in out.past_key_values.layers]
    kept, expected = 196, []
    for at in range(count):
        kept = schedule.get(at, kept)
        expected.append(length - 196 + kept)
    assert held == expected
    assert out.logits.shape[1] == length
    with masking(model, dropped):
        stock = model(**inputs)
        masked = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)
    assert torch.allclose(out.logits[0, -1], stock.logits[0, -1], atol=1e-4)
    assert torch.equal(pruned, masked)


every = pytest.mark.parametrize("name", list_methods(inside=True))


@every
def test_keep_everything_is_bit_identical(pocket, name) -> None:
    model, processor = pocket
    inputs = pocket_inputs(processor, *QUESTIONS)
    stock = model(**inputs).logits
    with get_method(name, 1.0)(model):
        assert torch.equal(model(**inputs).logits, stock)


@every
def test_dropping_equals_masking(pocket, name) -> None:
    """Token for token, in a padded batch, with each layer's cache as long as its schedule says."""
    model, processor = pocket
    inputs = pocket_inputs(processor, *QUESTIONS)
    settings = {"recycle": False} if name == "sparsevlm" else {}
    count = len(layers_of(model))
    method = get_method(name, 120, **settings)
    with method(model) as handle:
        found = model.generate(
            **inputs, max_new_tokens=6, min_new_tokens=6, return_dict_in_generate=True
        )
        report = handle.report
    dropped: dict[int, list[Tensor]] = {}
    for row, picture in enumerate(report):
        columns = (inputs["input_ids"][row] == model.config.image_token_id).nonzero()[:, 0]
        assert picture.average == averaged(method.schedule(count, 196), count, 196)
        for at, kept in picture.stages.items():
            gone = columns[~torch.isin(torch.arange(196), kept)]
            dropped.setdefault(at, []).append(gone)
    with masking(model, dropped):
        expected = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6)
    assert torch.equal(found.sequences, expected)
    length, kept, lengths = inputs["input_ids"].shape[1] + 5, 196, []
    for at in range(count):
        kept = method.schedule(count, 196).get(at, kept)
        lengths.append(length - 196 + kept)
    assert [layer.get_seq_length() for layer in found.past_key_values.layers] == lengths
    assert lengths[-1] < lengths[0]


@every
def test_batch_equals_singles(pocket, name) -> None:
    model, processor = pocket
    method = get_method(name, 120)
    both = pocket_inputs(processor, *QUESTIONS)
    with method(model) as handle:
        out = model.generate(**both, max_new_tokens=6, min_new_tokens=6)
        reports = handle.report
        for row in range(3):
            pad = int((both["attention_mask"][row] == 0).sum())
            single = {
                "input_ids": both["input_ids"][row : row + 1, pad:],
                "attention_mask": both["attention_mask"][row : row + 1, pad:],
                "pixel_values": both["pixel_values"][row : row + 1],
            }
            alone = model.generate(**single, max_new_tokens=6, min_new_tokens=6)
            assert torch.equal(alone[0, -6:], out[row, -6:])
            assert torch.equal(handle.report[0].indices, reports[row].indices)


def test_pictures_of_unlike_size_in_a_batch() -> None:
    family = made("qwen2_5_vl")
    both = family.inputs(ONE, SHORT)
    with Stages(keep=0.4, average=False)(family.model) as handle:
        out = answer(family, both)
        after = [report.after for report in handle.report]
        assert after[0] != after[1]
        for row, prompt in enumerate((ONE, SHORT)):
            alone = family.inputs(prompt, first=row)
            found = answer(family, alone)
            assert torch.equal(new(alone, found)[0], new(both, out)[row])


def test_beams(pocket) -> None:
    model, processor = pocket
    inputs = pocket_inputs(processor, *QUESTIONS[:2])
    more = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2}
    method = FastV(keep=120)
    with method(model) as handle:
        found = model.generate(**inputs, **more)
        kept = [report.indices for report in handle.report]
    columns = [(row == model.config.image_token_id).nonzero()[:, 0] for row in inputs["input_ids"]]
    gone = [c[~torch.isin(torch.arange(196), k)] for c, k in zip(columns, kept, strict=True)]
    with masking(model, {2: [g for g in gone for _ in range(3)]}):
        assert torch.equal(found, model.generate(**inputs, **more))


def test_second_turn(pocket, named) -> None:
    model, processor = pocket
    inputs = pocket_inputs(processor, QUESTIONS[0])
    method = FastV(keep=120)
    with method(model) as handle:
        first = model.generate(
            **inputs, max_new_tokens=3, return_dict_in_generate=True, use_cache=True
        )
        kept = handle.report[0].indices
        more = processor.tokenizer(" USER: how many are red ? ASSISTANT:", return_tensors="pt")
        ids = torch.cat([first.sequences, more["input_ids"][:, 1:]], 1)
        second = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5,
            **named(first.past_key_values),
        )  # fmt: skip
    columns = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    gone = columns[~torch.isin(torch.arange(196), kept)]
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with masking(model, {2: [gone]}):
        stock = model.generate(**whole, pixel_values=inputs["pixel_values"], max_new_tokens=5)
    assert torch.equal(second, stock)


def test_the_report_can_be_drawn(pocket) -> None:
    model, processor = pocket
    with FastV(keep=120)(model) as handle:
        model(**pocket_inputs(processor, *QUESTIONS))
        assert [report.grid for report in handle.report] == [(14, 14)] * 3
    with Staged(SPARE(keep=40, guidance="none"), FastV(keep=30))(model) as handle:
        model(**pocket_inputs(processor, QUESTIONS[0]))
        assert handle.report[0].grid is None  # indices are of the forty


def test_two_pictures() -> None:
    family = made("llava")
    inputs = family.inputs(TWO)
    with Stages(keep=3, average=False)(family.model) as handle:
        answer(family, inputs)
    assert [report.after for report in handle.report] == [3, 3]


def test_staged_is_one_after_the_other(pocket) -> None:
    """The second method sees what the first left, and nothing else."""
    model, processor = pocket
    inputs = pocket_inputs(processor, *QUESTIONS)
    first, then = SPARE(keep=40, guidance="none"), FastV(keep=12, average=False)
    shorter = first.prune_inputs(model, inputs)
    with then(model) as handle:
        expected = model.generate(**shorter, max_new_tokens=5, min_new_tokens=5)
        inside = handle.report
    with Staged(first, then)(model) as handle:
        found = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)
        report = handle.report
        logits = model(**inputs).logits
    assert torch.equal(found[:, -5:], expected[:, -5:])
    assert torch.equal(logits[:, -1].argmax(-1), found[:, -5])
    for one, other in zip(report, inside, strict=True):
        assert torch.equal(one.indices, other.indices)
        assert (one.before, one.after) == (40, 12)
    assert "generate" not in vars(model)


def test_staged_wants_one_of_each() -> None:
    with pytest.raises(TypeError, match="first must be a method that works before"):
        Staged(FastV(keep=9), FastV(keep=9))
    with pytest.raises(TypeError, match="then must be a method that works inside"):
        Staged(SPARE(keep=9), SPARE(keep=9))


def test_staged_budgets_cover_the_same() -> None:
    with pytest.raises(ValueError, match="give both the same"):
        Staged(SPARE(keep=9, per="prompt"), FastV(keep=9))


def test_nested_pruning_is_refused(pocket) -> None:
    model, _ = pocket
    with FastV(keep=120)(model), pytest.raises(ValueError, match="already pruned by FastV"):
        SPARE(keep=9)(model)
    with SPARE(keep=9)(model), pytest.raises(ValueError, match="already pruned by SPARE"):
        FastV(keep=120)(model)


def test_static_cache_is_refused(pocket) -> None:
    model, processor = pocket
    inputs = pocket_inputs(processor, QUESTIONS[0])
    with FastV(keep=120)(model), pytest.raises(ValueError, match="static cache has one length"):
        model.generate(**inputs, max_new_tokens=3, cache_implementation="static")


def test_a_cropped_cache_is_refused(pocket, named) -> None:
    model, processor = pocket
    inputs = pocket_inputs(processor, QUESTIONS[0])
    with FastV(keep=120)(model), pytest.raises(ValueError, match="cache was cropped"):
        cache = model(**inputs, use_cache=True).past_key_values
        cache.crop(-1)
        model(input_ids=inputs["input_ids"][:, -1:], **named(cache))


@pytest.mark.parametrize("at", [(1, 3), (1, 2, 3)])
def test_ragged_rows_at_many_stages(at) -> None:
    """Rows of unlike length are padded in front, at each stage anew."""
    vision = {
        "intermediate_size": 64, "out_hidden_size": 64, "window_size": 32,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = {**grids_and_tiles._rotary(2, 3, 3), "num_hidden_layers": 4}
    family = grids_and_tiles._qwen("Qwen2_5_VL", vision, text)
    both = family.inputs(ONE, SHORT)
    method = Stages(keep=0.2, at=at, average=False)
    with method(family.model) as handle:
        out = answer(family, both)
        reports = handle.report
        assert reports[0].after != reports[1].after
        for row, prompt in enumerate((ONE, SHORT)):
            alone = family.inputs(prompt, first=row)
            found = answer(family, alone)
            assert torch.equal(handle.report[0].indices, reports[row].indices)
            assert torch.equal(new(alone, found)[0], new(both, out)[row])


def test_right_padding_in_forward(pocket) -> None:
    model, processor = pocket
    both = pocket_inputs(processor, QUESTIONS[0], QUESTIONS[1])
    ids, mask = both["input_ids"].clone(), both["attention_mask"].clone()
    for row in range(2):
        pad = int((mask[row] == 0).sum())
        ids[row], mask[row] = ids[row].roll(-pad), mask[row].roll(-pad)
    method = FastV(keep=120)
    with method(model):
        # The last column of a shorter row is padding; what is asked is the last word all the same.
        turned = model(input_ids=ids, attention_mask=mask, pixel_values=both["pixel_values"]).logits
        left = model(**both).logits
    for row in range(2):
        last = int(mask[row].sum()) - 1
        assert torch.allclose(turned[row, last], left[row, -1], atol=1e-4)


def test_no_cache_equals_cache(pocket) -> None:
    model, processor = pocket
    inputs = pocket_inputs(processor, QUESTIONS[1])
    with FastV(keep=120)(model):
        cached = model.generate(**inputs, max_new_tokens=4)
        first = model(**inputs, use_cache=False).logits[0, -1].argmax()
    assert first == cached[0, inputs["input_ids"].shape[1]]


def test_model_is_left_as_it_was(pocket) -> None:
    model, _ = pocket
    hooks = sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())
    with FastV(keep=120)(model):
        pass
    assert hooks == sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


# -- schedules


@pytest.mark.parametrize(("layers", "tokens"), [(32, 576), (28, 1296), (6, 196)])
@pytest.mark.parametrize("method", [FastV, PyramidDrop])
def test_average_is_what_was_asked(method, layers, tokens) -> None:
    for share in (0.6, 0.45):
        keep = round(share * tokens)
        found = method(keep).schedule(layers, tokens)
        assert averaged(found, layers, tokens) == pytest.approx(keep, abs=1)
        assert averaged(found, layers, tokens) <= keep


def test_published_schedules() -> None:
    """FastV at LLaVA-1.5's 192: 576 tokens twice, then 166; PyramidDrop halves three times."""
    assert FastV(192).schedule(32, 576) == {2: 166}
    assert PyramidDrop(72, average=False).schedule(32, 576) == {8: 288, 16: 144, 24: 72}


def test_an_average_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"make an average of .* of 196 tokens: keep more"):
        FastV(20).schedule(6, 196)
    with pytest.raises(ValueError, match="this model has 2"):
        FastV(20).schedule(2, 196)
