"""One matrix over all families: tiny random models, real processors."""

from __future__ import annotations

import copy
import types

import accelerate
import pytest
import torch
import transformers
from torch.ao.quantization import quantize_dynamic
from transformers import StaticCache
from transformers.models.auto import modeling_auto as auto

from sparevlm.budgets import Residual
from sparevlm.families import FAMILIES
from sparevlm.hf import attach
from sparevlm.hf.encode import encode
from sparevlm.hf.media import IMAGE
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.supported import REASONS, UnsupportedModelError, find_family
from sparevlm.methods import SPARE, DivPrune, NoImage, RandomTokens, UniformGrid
from sparevlm.relevance import ClipScorer
from tests.families import BUILDERS
from tests.families.matrix import (
    KEEP,
    ONE,
    SHORT,
    TEXT,
    TWO,
    answer,
    by_hand,
    facts,
    made,
    near,
    new,
    placeholders,
    skip_where_static_is_wrong,
    spare,
)  # fmt: skip
from tests.tiny import tiny_clip


@pytest.fixture(params=sorted(BUILDERS))
def family(request):
    return made(request.param)


placed = pytest.mark.parametrize(
    ("family", "positions"),
    [
        (name, positions)
        for name in sorted(BUILDERS)
        for positions in ("compact", "original")
        if positions == "original" or not facts(made(name)).mrope
    ],
    indirect=["family"],
)


def of(wanted):
    """Only the families whose facts are `wanted`."""
    names = [name for name in sorted(BUILDERS) if wanted(facts(made(name)))]
    return pytest.mark.parametrize("family", names, indirect=True)


def test_keep_all_is_bit_identical(family):
    for prompts in ((ONE,), (TWO, SHORT)):
        inputs = family.inputs(*prompts)
        with torch.no_grad():
            logits, tokens = family.model(**inputs).logits, answer(family, inputs)
            with spare(1.0)(family.model) as handle:
                assert torch.equal(family.model(**inputs).logits, logits)
                assert torch.equal(answer(family, inputs), tokens)
                assert all(picture.before == picture.after for picture in handle.report)


@placed
@pytest.mark.parametrize("prompt", [ONE, TWO])
def test_equals_a_reference_by_hand(family, positions, prompt):
    inputs = family.inputs(prompt)
    with torch.no_grad(), spare(positions=positions)(family.model) as handle:
        found = family.model(**inputs).logits
    assert [picture.after for picture in handle.report] == [KEEP] * prompt.count("<image>")
    expected = by_hand(family, inputs, handle.report, positions == "original")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    full = family.model(**inputs).logits
    assert not torch.allclose(found[0, -1], full[0, -1])


@placed
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_singles_in_forward(family, positions, side):
    prompts = (TWO, SHORT, TEXT) if family.text_only else (TWO, SHORT)
    both = family.inputs(*prompts, side=side)
    with torch.no_grad(), spare(positions=positions)(family.model) as handle:
        out = family.model(**both)
        pictures, first = handle.report, 0
        assert out.logits.shape[1] <= both["input_ids"].shape[1]
        for row, prompt in enumerate(prompts):
            one = family.inputs(prompt, first=first)
            first += prompt.count("<image>")
            alone = family.model(**one).logits[0]
            found = out.logits[row]
            found = found[-len(alone) :] if side == "left" else found[: len(alone)]
            torch.testing.assert_close(found, alone, **near(family))
    assert len(pictures) == 3


@placed
def test_generate_in_a_batch_equals_singles(family, positions):
    prompts = (TWO, SHORT, TEXT) if family.text_only else (TWO, SHORT)
    both = family.inputs(*prompts)
    with spare(positions=positions)(family.model):
        found, first = new(both, answer(family, both)), 0
        for row, prompt in enumerate(prompts):
            one = family.inputs(prompt, first=first)
            first += prompt.count("<image>")
            assert torch.equal(found[row], new(one, answer(family, one))[0])


def test_generate_equals_forward_step_by_step(family):
    inputs = family.inputs(ONE)
    with torch.no_grad(), spare()(family.model):
        tokens = new(inputs, answer(family, inputs))[0]
        for step in range(3):
            more = dict(inputs)
            for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
                if name in inputs:
                    fill = {"input_ids": tokens[None, :step], "attention_mask": 1}.get(name, 0)
                    tail = torch.zeros(1, step, dtype=torch.long) + fill
                    more[name] = torch.cat([inputs[name], tail], 1)
            logits = family.model(**more).logits
            logits[..., placeholders(family)] = -torch.inf
            if facts(family).model_type != "paligemma":  # its prefix attends both ways
                assert int(logits[0, -1].argmax()) == int(tokens[step])


def test_beams_and_several_answers(family):
    prompts = (TWO, SHORT)
    both = family.inputs(*prompts)
    options = {"num_beams": 3, "num_return_sequences": 2}
    with spare()(family.model):
        found, first = new(both, answer(family, both, **options)), 0
        for row, prompt in enumerate(prompts):
            one = family.inputs(prompt, first=first)
            first += prompt.count("<image>")
            assert torch.equal(
                found[2 * row : 2 * row + 2], new(one, answer(family, one, **options))
            )


def test_sampling_is_that_of_the_pruned_model(family):
    inputs = family.inputs(ONE)
    pruned = spare().prune_inputs(family.model, inputs)
    torch.manual_seed(0)
    expected = family.model.generate(
        **pruned, do_sample=True, max_new_tokens=5, suppress_tokens=placeholders(family)
    )
    torch.manual_seed(0)
    with spare()(family.model):
        found = answer(family, inputs, do_sample=True, min_new_tokens=None)
    assert torch.equal(new(inputs, found), new(pruned, expected))


def test_static_cache(family):
    skip_where_static_is_wrong(family)
    inputs = family.inputs(ONE, SHORT)
    with spare()(family.model):
        expected = answer(family, inputs)
        found = answer(family, inputs, cache_implementation="static")
    assert torch.equal(found, expected)


@placed
def test_a_second_turn(family, positions, named):
    inputs = family.inputs(ONE)
    options = {"return_dict_in_generate": True}
    with spare(positions=positions)(family.model):
        first = answer(family, inputs, **options)
        follow = family.processor.tokenizer(TEXT, return_tensors="pt")["input_ids"][:, 1:]
        whole = {"input_ids": torch.cat([first.sequences, follow], 1)}
        whole["attention_mask"] = torch.ones_like(whole["input_ids"])
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                longer = torch.zeros_like(whole["input_ids"])
                longer[:, : inputs[name].shape[1]] = inputs[name]
                whole[name] = longer
        rest = {k: v for k, v in inputs.items() if k not in whole}
        found = answer(family, whole, **named(first.past_key_values))
        if facts(family).model_type in ("paligemma",):
            return  # what came first attended to nothing behind it
        assert torch.equal(found, answer(family, whole | rest))


def test_labels(family):
    inputs = family.inputs(ONE)
    labels = inputs["input_ids"].clone()
    labels[:, :-4] = -100
    with torch.no_grad(), spare()(family.model):
        out = family.model(**inputs, labels=labels)
    logits = out.logits[0, -5:-1].float()
    expected = torch.nn.functional.cross_entropy(logits, labels[0, -4:])
    torch.testing.assert_close(out.loss.float(), expected, rtol=1e-4, atol=1e-4)


def test_ragged_budgets(family):
    method = spare(Residual(0.2))
    prompts = (ONE, SHORT)
    both = family.inputs(*prompts)
    with method(family.model) as handle:
        found = new(both, answer(family, both))
        counts = [picture.after for picture in handle.report]
        for row, prompt in enumerate(prompts):
            one = family.inputs(prompt, first=row)
            assert torch.equal(found[row], new(one, answer(family, one))[0])
            assert handle.report[0].after == counts[row]


def test_one_budget_for_a_prompt(family):
    with torch.no_grad(), spare(9, per="prompt")(family.model) as handle:
        family.model(**family.inputs(TWO))
    (group,) = handle.report
    assert group.after == 9


@of(lambda known: known.tiled != "no")
def test_every_tile_its_budget(family):
    with torch.no_grad(), spare(3, per="tile")(family.model) as handle:
        family.model(**family.inputs(TWO))
    assert len(handle.report) > 2 and {picture.after for picture in handle.report} == {3}


@pytest.mark.parametrize("method", [DivPrune(5), RandomTokens(5), UniformGrid(5), NoImage()])
def test_other_methods(family, method):
    inputs = family.inputs(ONE)
    with method(family.model) as handle:
        assert answer(family, inputs).shape[1] == inputs["input_ids"].shape[1] + 5
    assert handle.report[0].after == (0 if isinstance(method, NoImage) else 5)


@of(lambda known: known.newline)
def test_separators_are_never_kept(family):
    inputs = family.inputs(ONE)
    newline = family.model.base_model.image_newline
    given = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
    rows = encode(
        Pruning(spare(), family.model, facts(family), None), IMAGE, given, hidden=False
    ).features[0]
    ends = (rows == newline).all(1)
    assert ends.any()
    with torch.no_grad(), spare(int((~ends).sum()) - 1)(family.model) as handle:
        family.model(**inputs)
    assert not ends[handle.report[0].indices].any()


def test_placeholders_that_do_not_fit(family):
    inputs = family.inputs(ONE)
    image = family.model.config.image_token_id
    column = int((inputs["input_ids"][0] == image).nonzero()[0])
    for name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            value = inputs[name]
            inputs[name] = torch.cat([value[:, :column], value[:, column + 1 :]], 1)
    with spare()(family.model), pytest.raises(ValueError, match="placeholders and"):
        family.model(**inputs)


def test_nothing_is_left_behind(family):
    inputs = family.inputs(ONE)
    with torch.no_grad():
        expected = family.model(**inputs).logits
        before = dict(family.model.__dict__)
        handle = attach(spare(), family.model)
        family.model(**inputs)
        handle.detach()
        assert dict(family.model.__dict__).keys() == before.keys()
        assert torch.equal(family.model(**inputs).logits, expected)


def test_static_cache_given(family, named):
    skip_where_static_is_wrong(family)
    inputs = family.inputs(ONE)
    cache = StaticCache(family.model.config.get_text_config(), max_cache_len=400)
    with spare()(family.model):
        assert torch.equal(answer(family, inputs, **named(cache)), answer(family, inputs))


def seeing_classes() -> list[str]:
    """Model classes that transformers lists for text about pictures, videos or several kinds."""
    names = []
    for mapping in (
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
        "MODEL_FOR_VIDEO_TEXT_TO_TEXT_MAPPING_NAMES",
        "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
    ):
        for found in getattr(auto, mapping, {}).values():
            names += [found] if isinstance(found, str) else list(found)
    return sorted({name for name in names if hasattr(transformers, name)})


def test_every_class_is_known():
    """A new transformers may bring classes: support them, or refuse them in hf/refused.py."""
    known = {name for family in FAMILIES.values() for name in family.classes}
    kinds = {name: getattr(transformers, name).config_class.model_type for name in seeing_classes()}
    unknown = [name for name in kinds if name not in known and kinds[name] not in REASONS]
    assert not unknown, f"transformers {transformers.__version__} has {', '.join(unknown)}"
    assert not set(FAMILIES) & set(REASONS)


@pytest.mark.parametrize("name", seeing_classes())
def test_every_class_is_tested_or_refused(name):
    cls = getattr(transformers, name)
    model = cls.__new__(cls)
    torch.nn.Module.__init__(model)
    kind = cls.config_class.model_type
    model.config = types.SimpleNamespace(
        model_type=kind, is_encoder_decoder=getattr(cls.config_class, "is_encoder_decoder", False)
    )
    tested = {type(made(built).model).__name__ for built in BUILDERS}
    try:
        find_family(model)
    except UnsupportedModelError as error:
        assert name not in tested
        words = str(error)
        assert words.startswith(f"{name} is not supported: {REASONS[kind]}; ")
        assert "\n" not in words and len(REASONS[kind]) > 20
    else:
        assert name in tested


@of(lambda known: known.mrope)
def test_several_axes_are_not_renumbered(family):
    inputs = family.inputs(ONE)
    with spare(positions="compact")(family.model):
        with pytest.raises(ValueError, match="cannot be renumbered"):
            family.model(**inputs)
        with pytest.raises(ValueError, match="cannot be renumbered"):
            answer(family, inputs)
    with spare()(family.model), pytest.raises(ValueError, match="need the cache"):
        answer(family, inputs, use_cache=False)


def test_remote_code_is_refused():
    model = copy.copy(made("llava").model)
    model.__class__ = type("Odd", (type(model),), {"__module__": "transformers_modules.odd"})
    with pytest.raises(UnsupportedModelError, match="trust_remote_code"):
        attach(spare(), model)


# Stock generate fails on them: what they read outside of any layer stays away.
NOT_OFFLOADED = {
    "gemma4", "glm4v", "glm4v_moe", "glm46v", "idefics3", "lfm2_vl", "llava_onevision",
}  # fmt: skip


@pytest.mark.parametrize("family", sorted(set(BUILDERS) - NOT_OFFLOADED), indirect=True)
def test_offloaded_weights(family):
    inputs = family.inputs(TWO, SHORT)
    with spare()(family.model) as handle:
        expected, kept = answer(family, inputs), [p.indices for p in handle.report]
    moved = copy.deepcopy(family)
    accelerate.cpu_offload(moved.model, execution_device=torch.device("cpu"))
    assert any(weight.device.type == "meta" for weight in moved.model.parameters())
    with spare()(moved.model) as handle:
        assert torch.equal(answer(moved, inputs), expected)
        assert all(torch.equal(a.indices, b) for a, b in zip(handle.report, kept, strict=True))


@of(lambda known: known.video in ("no", "pictures"))
def test_video_where_there_is_none(family):
    inputs = family.inputs(ONE) | {"pixel_values_videos": torch.zeros(1, 2, 3, 56, 56)}
    said = f"{facts(family).name} takes no pixel_values_videos: .*frame"
    with spare()(family.model), pytest.raises(ValueError, match=said):
        family.model(**inputs)


def test_pictures_of_another_familys_processor(family):
    """A sentence that names the processor or the placeholders, or, where all fits, an answer."""
    for other in sorted(set(BUILDERS) - {family.name}):
        inputs = made(other).inputs(ONE)
        try:
            with torch.no_grad(), spare()(family.model):
                family.model(**inputs)
        except ValueError as error:
            said = str(error)
            assert "\n" not in said and ("placeholder" in said or "own processor" in said), said


def test_guidance_by_the_language_models_embeddings(family):
    inputs = family.inputs(TWO)
    given = {"relevance": "llm", "tokenizer": family.processor.tokenizer}
    with torch.no_grad(), SPARE(KEEP, strength=1.0).attach(family.model, **given) as handle:
        family.model(**inputs)
    assert all(picture.scores is not None for picture in handle.report)
    with torch.no_grad(), spare()(family.model) as plain:
        family.model(**inputs)
    pairs = zip(handle.report, plain.report, strict=True)
    assert any(not torch.equal(a.indices, b.indices) for a, b in pairs)


@of(lambda known: known.model_type in ("qwen2_vl", "mistral3"))
def test_clip_where_it_does_not_fit(family):
    clip = ClipScorer(tiny_clip(), family.processor.tokenizer)
    options = {"clip": clip, "tokenizer": family.processor.tokenizer}
    with (
        torch.no_grad(),
        SPARE(KEEP).attach(family.model, **options) as handle,
        pytest.warns(UserWarning, match="guidance by the question is off"),
    ):
        family.model(**family.inputs(ONE))
    assert handle.report[0].after == KEEP and handle.report[0].scores is None


@of(lambda known: known.mrope)
def test_auto_guidance_without_a_text_tower_says_what_to_choose(family):
    with pytest.warns(UserWarning, match='relevance "llm", or guidance "none"'):
        SPARE(KEEP).attach(family.model).detach()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its successor is a package of its own
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "llava_onevision"])
def test_a_quantised_language_model(name):
    """Weights in eight bits: batch equals singles, and everything kept changes nothing."""
    family = copy.deepcopy(made(name))
    family.model.float()
    text = family.model.model.language_model
    family.model.model.language_model = quantize_dynamic(text, {torch.nn.Linear}, torch.qint8)
    assert "quantized" in type(family.model.model.language_model.layers[0].mlp.up_proj).__module__
    both = family.inputs(TWO, SHORT)
    with torch.no_grad():
        expected = family.model(**both).logits
        with spare(1.0)(family.model):
            assert torch.equal(family.model(**both).logits, expected)
        with spare()(family.model) as handle:
            found = answer(family, both)
    assert {picture.after for picture in handle.report} == {KEEP}
    assert found.shape[1] == both["input_ids"].shape[1] + 5
