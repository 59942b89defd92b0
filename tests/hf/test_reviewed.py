"""Corners in which the mechanism once went wrong."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GenerationConfig, StaticCache

from sparevlm.budgets import Residual
from sparevlm.methods import SPARE, UniformGrid
from tests.hf.conftest import ONE, SHORT, TEXT

POSITIONS = pytest.mark.parametrize("positions", ["compact", "original"])


def step(model, ids, named, cache, **options):
    return model(input_ids=ids, **named(cache), **options)


def test_a_given_config_is_completed_by_the_models(tiny):
    inputs, model = tiny.inputs(ONE, SHORT), tiny.model
    length = inputs["input_ids"].shape[1]
    given = GenerationConfig(do_sample=False, max_new_tokens=4)
    with UniformGrid(9)(model):
        expected = model.generate(**inputs, generation_config=given)
        without = {name: value for name, value in inputs.items() if name != "attention_mask"}
        assert torch.equal(model.generate(**without, generation_config=given), expected)
        model.generation_config.max_length = length + 4
        plain = GenerationConfig(do_sample=False)
        assert model.generate(**inputs, generation_config=plain).shape[1] == length + 4
    model.generation_config.max_length = None
    model.generation_config.use_cache = False
    with (
        UniformGrid(9, positions="original")(model),
        pytest.raises(ValueError, match="need the cache"),
    ):
        model.generate(**inputs, generation_config=given)


@POSITIONS
def test_tuples_are_remembered_too(tiny, positions, named):
    inputs, new = tiny.inputs(ONE), torch.tensor([[7]])
    with torch.no_grad(), UniformGrid(9, positions=positions)(tiny.model):
        cache = tiny.model(**inputs).past_key_values
        expected = step(tiny.model, new, named, cache).logits
        parts = tiny.model(**inputs, return_dict=False)
        found = step(tiny.model, new, named, parts[1]).logits
    torch.testing.assert_close(found, expected)


@POSITIONS
def test_a_cache_used_again_after_a_reset(tiny, positions, named):
    model, text, new = tiny.model, tiny.inputs(TEXT), torch.tensor([[7]])

    def logits(cache):
        model(**text, **named(cache))
        return step(model, new, named, cache).logits

    with torch.no_grad(), UniformGrid(9, positions=positions)(model):
        expected = logits(StaticCache(model.config, max_cache_len=300))
        cache = StaticCache(model.config, max_cache_len=300)
        model(**tiny.inputs(ONE), **named(cache))
        cache.reset()
        torch.testing.assert_close(logits(cache), expected)


@POSITIONS
def test_tokens_fed_and_cropped_again(tiny, positions, named):
    inputs, new = tiny.inputs(ONE), torch.tensor([[7]])
    with torch.no_grad(), UniformGrid(9, positions=positions)(tiny.model):
        cache = tiny.model(**inputs).past_key_values
        step(tiny.model, torch.tensor([[8, 9]]), named, cache)
        expected = step(tiny.model, new, named, copy.deepcopy(cache)).logits
        step(tiny.model, torch.tensor([[10, 11, 12]]), named, cache)
        cache.crop(-3)
        torch.testing.assert_close(step(tiny.model, new, named, cache).logits, expected)


@POSITIONS
def test_new_pictures_of_different_size_in_a_forward_turn(tiny, positions, named):
    method = SPARE(Residual(0.1), guidance="none", positions=positions)
    first = tiny.inputs(ONE, ONE)
    second = tiny.inputs(ONE, SHORT, first=5)
    with torch.no_grad(), method(tiny.model) as handle:
        cache = tiny.model(**first).past_key_values
        mask = torch.cat([first["attention_mask"], second["attention_mask"]], 1)
        out = tiny.model(**dict(second, attention_mask=mask), **named(cache))
        assert handle.report[0].after != handle.report[1].after
        for i, prompt in enumerate((ONE, SHORT)):
            alone = tiny.model(**tiny.inputs(ONE, first=i)).past_key_values
            one = tiny.inputs(prompt, first=5 + i)
            whole = torch.cat([first["attention_mask"][i : i + 1], one["attention_mask"]], 1)
            expected = tiny.model(**dict(one, attention_mask=whole), **named(alone)).logits
            torch.testing.assert_close(out.logits[i, -1], expected[0, -1], rtol=1e-4, atol=1e-4)


def test_what_cannot_go_on_is_refused(tiny, named):
    inputs = tiny.inputs(ONE)
    with torch.no_grad(), UniformGrid(9)(tiny.model):
        cache = tiny.model(**inputs).past_key_values
        embeddings = tiny.model.get_input_embeddings()(torch.tensor([[7]]))
        with pytest.raises(ValueError, match="holds a pruned prompt"):
            tiny.model(inputs_embeds=embeddings, **named(cache))
        with pytest.raises(ValueError, match="inputs_embeds and pictures"):
            tiny.model.generate(inputs_embeds=embeddings, pixel_values=inputs["pixel_values"])


def test_generate_then_forward_then_the_whole_conversation(tiny, named):
    inputs, options = tiny.inputs(ONE), {"do_sample": False, "return_dict_in_generate": True}
    length = inputs["input_ids"].shape[1]
    with torch.no_grad(), UniformGrid(9)(tiny.model):
        first = tiny.model.generate(**inputs, **options, max_new_tokens=3)
        fed = torch.cat([first.sequences[:, -1:], torch.tensor([[7]])], 1)
        mask = torch.ones(1, length + 4, dtype=torch.int64)
        cache = step(
            tiny.model, fed, named, first.past_key_values, attention_mask=mask
        ).past_key_values
        whole = torch.cat([first.sequences, torch.tensor([[7, 8]])], 1)
        again = dict(inputs, input_ids=whole, attention_mask=torch.ones_like(whole))
        found = tiny.model.generate(**again, **named(cache), **options, max_new_tokens=4)
        expected = tiny.model.generate(**again, **options, max_new_tokens=4)
    assert torch.equal(found.sequences, expected.sequences)


@POSITIONS
def test_padded_text_by_forward_and_then_a_picture(tiny, positions, named):
    text, second = tiny.inputs(TEXT, SHORT.replace("<image>", "")), tiny.inputs(ONE, ONE)
    second.pop("attention_mask")
    if bool(text["attention_mask"].all()):
        pytest.skip("both prompts have the same length")
    mask = torch.cat([text["attention_mask"], torch.ones_like(second["input_ids"])], 1)
    with torch.no_grad(), UniformGrid(9, positions=positions)(tiny.model):
        cache = tiny.model(**text).past_key_values
        out = tiny.model(**second, attention_mask=mask, **named(cache)).logits
        for i in range(2):
            real = text["attention_mask"][i].bool()
            alone = tiny.model(input_ids=text["input_ids"][i : i + 1, real]).past_key_values
            one = {"input_ids": second["input_ids"][i : i + 1]}
            one["pixel_values"] = second["pixel_values"][i : i + 1]
            expected = tiny.model(**one, **named(alone)).logits
            torch.testing.assert_close(out[i, -1], expected[0, -1], rtol=1e-4, atol=1e-4)


def test_a_wrapper_of_the_users_stays(tiny):
    model = tiny.model
    handle = UniformGrid(9)(model)
    ours = model.generate
    model.generate = lambda **kwargs: ours(**kwargs)
    theirs = model.generate
    handle.detach()
    try:
        assert model.generate is theirs
        inputs = tiny.inputs(ONE)
        expected = type(model).generate(model, **inputs, do_sample=False, max_new_tokens=3)
        assert torch.equal(model.generate(**inputs, do_sample=False, max_new_tokens=3), expected)
    finally:
        del model.generate


def test_a_pruned_model_is_not_copied(tiny):
    with UniformGrid(9)(tiny.model), pytest.raises(TypeError, match="detach before"):
        copy.deepcopy(tiny.model)
    copy.deepcopy(tiny.model)


def test_a_max_length_within_the_prompt(tiny):
    with UniformGrid(9)(tiny.model), pytest.raises(ValueError, match="max_length=5 leaves no room"):
        tiny.model.generate(**tiny.inputs(ONE), max_length=5)
