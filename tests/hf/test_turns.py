"""Conversations that go on from a cache."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import DynamicCache

from sparevlm.budgets import Residual
from sparevlm.methods import SPARE, FastV, Staged
from tests.hf.conftest import ONE, SHORT, TEXT, TWO

OPTIONS = {"do_sample": False, "max_new_tokens": 5}
POSITIONS = pytest.mark.parametrize("positions", ["compact", "original"])


def first_turn(setup, *prompts):
    inputs = setup.inputs(*prompts)
    out = setup.model.generate(**inputs, **OPTIONS, return_dict_in_generate=True)
    return inputs, out


def next_turn(setup, inputs, sequences, text=" USER: is there a red star ? ASSISTANT:"):
    new = setup.ids(text).expand(len(sequences), -1)
    ids = torch.cat([sequences, new], 1)
    answered = (sequences != setup.model.generation_config.pad_token_id).long()
    mask = torch.cat([answered, torch.ones_like(new)], 1)
    mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
    return {"input_ids": ids, "attention_mask": mask}


def crop(cache, length):
    cache.crop(length - cache.get_seq_length())


@POSITIONS
@pytest.mark.parametrize("again", [True, False], ids=["with pictures", "without"])
@pytest.mark.parametrize("prompts", [(ONE,), (ONE, SHORT, TEXT)], ids=["single", "batch"])
def test_a_second_and_a_third_turn(setup, positions, again, prompts, named):
    with SPARE(9, guidance="none", positions=positions)(setup.model):
        inputs, out = first_turn(setup, *prompts)
        cache, sequences = out.past_key_values, out.sequences
        for _ in range(2):
            turn = next_turn(setup, inputs, sequences)
            fresh = setup.model.generate(**turn, pixel_values=inputs["pixel_values"], **OPTIONS)
            if again:
                turn["pixel_values"] = inputs["pixel_values"]
            found = setup.model.generate(
                **turn, **named(cache), **OPTIONS, return_dict_in_generate=True
            )
            assert torch.equal(found.sequences, fresh)
            cache, sequences, inputs["attention_mask"] = (
                found.past_key_values,
                found.sequences,
                turn["attention_mask"],
            )


@POSITIONS
def test_ragged_rows_go_on(setup, positions, named):
    with SPARE(Residual(0.1), guidance="none", positions=positions)(setup.model):
        inputs, out = first_turn(setup, ONE, SHORT)
        turn = next_turn(setup, inputs, out.sequences)
        fresh = setup.model.generate(**turn, pixel_values=inputs["pixel_values"], **OPTIONS)
        found = setup.model.generate(**turn, **named(out.past_key_values), **OPTIONS)
    assert torch.equal(found, fresh)


@POSITIONS
def test_a_new_picture_in_the_second_turn(setup, positions, named):
    text = f" USER: {'<image>' * 196} is there a red star ? ASSISTANT:"
    with SPARE(9, guidance="none", positions=positions)(setup.model) as handle:
        inputs, out = first_turn(setup, ONE)
        turn = next_turn(setup, inputs, out.sequences, text)
        new = setup.inputs(ONE, first=7)["pixel_values"]
        both = torch.cat([inputs["pixel_values"], new])
        fresh = setup.model.generate(**turn, pixel_values=both, **OPTIONS)
        for pictures in (both, new):
            cache = copy.deepcopy(out.past_key_values)
            found = setup.model.generate(**turn, pixel_values=pictures, **named(cache), **OPTIONS)
            assert torch.equal(found, fresh)
            assert [one.after for one in handle.report] == [9]


def test_a_picture_after_a_turn_of_text(setup, named):
    with SPARE(9, guidance="none")(setup.model):
        inputs, out = first_turn(setup, TEXT)
        text = f" USER: {'<image>' * 196} is there a red star ? ASSISTANT:"
        turn = next_turn(setup, inputs, out.sequences, text)
        turn["pixel_values"] = setup.inputs(ONE)["pixel_values"]
        fresh = setup.model.generate(**turn, **OPTIONS)
        found = setup.model.generate(**turn, **named(out.past_key_values), **OPTIONS)
    assert torch.equal(found, fresh)


def test_a_cache_given_empty(setup, named):
    inputs, cache = setup.inputs(ONE), DynamicCache()
    with SPARE(9, guidance="none")(setup.model):
        sequences = setup.model.generate(**inputs, **named(cache), **OPTIONS)
        turn = next_turn(setup, inputs, sequences)
        fresh = setup.model.generate(**turn, pixel_values=inputs["pixel_values"], **OPTIONS)
        assert torch.equal(setup.model.generate(**turn, **named(cache), **OPTIONS), fresh)


def test_another_block_goes_on(setup, named):
    with SPARE(9, guidance="none")(setup.model):
        inputs, out = first_turn(setup, ONE)
        turn = next_turn(setup, inputs, out.sequences)
        fresh = setup.model.generate(**turn, pixel_values=inputs["pixel_values"], **OPTIONS)
    with SPARE(9, guidance="none")(setup.model):
        found = setup.model.generate(**turn, **named(out.past_key_values), **OPTIONS)
    assert torch.equal(found, fresh)


@POSITIONS
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("prompts", [(ONE,), (ONE, SHORT)], ids=["single", "batch"])
def test_a_loop_of_forward_calls(setup, positions, masked, prompts, named):
    inputs = setup.inputs(*prompts)
    options = {"do_sample": False, "max_new_tokens": 5, "eos_token_id": 10**6}
    with torch.no_grad(), SPARE(9, guidance="none", positions=positions)(setup.model):
        expected = setup.model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
        out = setup.model(**inputs)
        mask, answer = inputs["attention_mask"], [out.logits[:, -1:].argmax(-1)]
        for _ in range(4):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            extra = {"attention_mask": mask} if masked else {}
            out = setup.model(input_ids=answer[-1], **named(out.past_key_values), **extra)
            answer.append(out.logits[:, -1:].argmax(-1))
    assert torch.equal(torch.cat(answer, 1), expected)


def test_another_prompt_is_refused(setup, named):
    with SPARE(9, guidance="none")(setup.model):
        inputs, out = first_turn(setup, ONE)
        other = next_turn(setup, inputs, out.sequences)
        other["input_ids"][:, 1] += 1
        with pytest.raises(ValueError, match="does not go on from"):
            setup.model.generate(**other, **named(out.past_key_values), **OPTIONS)


def test_a_cache_cropped_within_a_picture_is_refused(setup, named):
    with SPARE(9, guidance="none")(setup.model):
        inputs, out = first_turn(setup, ONE)
        crop(out.past_key_values, 5)
        turn = next_turn(setup, inputs, out.sequences)
        with pytest.raises(ValueError, match="cropped within a picture"):
            setup.model.generate(**turn, **named(out.past_key_values), **OPTIONS)


def test_a_cache_cropped_to_the_prompt_serves_another_question(setup, named):
    with SPARE(9, guidance="none")(setup.model):
        inputs, out = first_turn(setup, ONE)
        crop(out.past_key_values, 16)  # after the picture, within the question
        again = next_turn(setup, inputs, inputs["input_ids"])
        fresh = setup.model.generate(**again, pixel_values=inputs["pixel_values"], **OPTIONS)
        found = setup.model.generate(**again, **named(out.past_key_values), **OPTIONS)
    assert torch.equal(found, fresh)


EVERY = [
    SPARE(10, guidance="none"),
    FastV(0.5, layer=1, average=False),
    Staged(SPARE(20, guidance="none"), FastV(0.5, layer=1, average=False)),
]


def cache_in(output):
    return output.get("cache") or output.get("past_key_values")


@pytest.mark.parametrize("method", [EVERY[0], EVERY[2]], ids=["before", "staged"])
def test_a_mask_that_hides_the_first_picture_later(setup, method):
    inputs, more = setup.inputs(TWO), setup.ids("is there a red star ?")
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    hidden = mask.clone()
    image = (inputs["input_ids"][0] == setup.model.config.image_token_id).nonzero()[:, 0]
    hidden[0, image] = 0
    with torch.no_grad(), method(setup.model):
        cache = cache_in(setup.model(**inputs, use_cache=True))
        with pytest.raises(
            ValueError, match=r"^attention_mask hides, or shows, other columns than"
        ):
            setup.model(input_ids=more, attention_mask=hidden, past_key_values=cache)
        assert setup.model(input_ids=more, attention_mask=mask, past_key_values=cache).logits.ndim


@pytest.mark.parametrize("how", ["swapped", "repeated"])
@pytest.mark.parametrize("method", EVERY, ids=["before", "inside", "staged"])
def test_rows_of_a_cache_that_were_moved(setup, method, how):
    inputs = setup.inputs(TWO, SHORT)
    rows = torch.tensor([1, 0] if how == "swapped" else [0, 1, 0, 1])
    more = setup.ids("is there a red star ?").expand(len(rows), -1)
    with torch.no_grad(), method(setup.model):
        cache = cache_in(setup.model(**inputs, use_cache=True))
        cache.batch_select_indices(rows)
        mask = torch.cat([inputs["attention_mask"][rows], torch.ones_like(more)], 1)
        with pytest.raises(
            ValueError, match=r"^rows of the cache were moved, repeated or replaced"
        ):
            setup.model(input_ids=more, attention_mask=mask, past_key_values=cache)


@pytest.mark.parametrize("method", EVERY[:1], ids=["before"])
def test_rows_of_a_cache_that_were_multiplied_as_beams_are(setup, method):
    inputs = setup.inputs(TWO, SHORT)
    more = setup.ids("is there a red star ?").expand(4, -1)
    mask = torch.cat([inputs["attention_mask"].repeat_interleave(2, 0), torch.ones_like(more)], 1)
    with torch.no_grad(), method(setup.model):
        cache = cache_in(setup.model(**inputs, use_cache=True))
        cache.batch_repeat_interleave(2)
        logits = setup.model(input_ids=more, attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(logits[0], logits[1])
