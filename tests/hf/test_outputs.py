"""What comes out of a pruned call: how long each output is, and what stands where."""

from __future__ import annotations

import pytest
import torch

from sparevlm.methods import SPARE, FastV, Staged
from tests.families.matrix import made
from tests.hf.conftest import ONE, SHORT, TEXT, TWO

BEFORE = SPARE(10, guidance="none")
INSIDE = [
    FastV(0.5, layer=1, average=False),
    Staged(SPARE(20, guidance="none"), FastV(0.5, layer=1, average=False)),
]


@pytest.mark.parametrize("family", ["tiny", "qwen2_5_vl", "llava_next"])
@pytest.mark.parametrize("method", [BEFORE, *INSIDE], ids=lambda m: type(m).__name__)
def test_hidden_states_are_as_long_as_logits(tiny, method, family):
    if family == "tiny":
        model, inputs = tiny.model, tiny.inputs(TWO, SHORT, TEXT)
    else:
        model = made(family).model
        inputs = made(family).inputs("user : <image> what color is the star ? assistant :")
    with torch.no_grad(), method(model) as handle:
        out = model(**inputs, output_hidden_states=True)
        length = out.logits.shape[1]
        assert all(states.shape[1] == length for states in out.hidden_states)
        assert handle.columns.shape == handle.attention_mask.shape == (len(out.logits), length)
        head = model.get_output_embeddings()
        torch.testing.assert_close(head(out.hidden_states[-1]), out.logits)
        if method is BEFORE:
            return
        # A token that was dropped in the layers before has the states of the one in front of it.
        states = out.hidden_states[-1][0]
        same = (states[1:] == states[:-1]).all(-1)
        reports = [one for one in handle.report if one.row == 0]
        dropped = sum(one.before - one.after for one in reports)
        padded = max(int((handle.attention_mask[0] == 0).sum()) - 1, 0)
        assert dropped > 0 and int(same.sum()) == dropped + padded
        first = out.hidden_states[1][0]  # of layer 0: all there
        assert int((first[1:] == first[:-1]).all(-1).sum()) <= padded


@pytest.mark.parametrize("method", [BEFORE, *INSIDE], ids=lambda m: type(m).__name__)
def test_generate(setup, method):
    """Scores are one a new token, sequences begin with the user's prompt."""
    inputs = setup.inputs(ONE, SHORT)
    length = inputs["input_ids"].shape[1]
    with method(setup.model):
        out = setup.model.generate(
            **inputs, do_sample=False, max_new_tokens=4, min_new_tokens=4, output_scores=True,
            output_logits=True, output_hidden_states=True, return_dict_in_generate=True,
        )  # fmt: skip
        plain = setup.model.generate(**inputs, do_sample=False, max_new_tokens=4, min_new_tokens=4)
    assert torch.equal(out.sequences, plain)
    assert torch.equal(out.sequences[:, :length], inputs["input_ids"])
    assert len(out.scores) == len(out.logits) == len(out.hidden_states) == 4
    steps = setup.model.compute_transition_scores(out.sequences, out.scores, normalize_logits=True)
    chosen = torch.stack(out.scores, 1).log_softmax(-1)
    new = out.sequences[:, length:]
    torch.testing.assert_close(steps, chosen.gather(2, new[..., None])[..., 0])


def test_attentions_are_those_of_what_a_layer_had(tiny):
    """Columns by `handle.columns` before the decoder, by `report.stages` inside it."""
    tiny.model.set_attn_implementation("eager")
    inputs = tiny.inputs(ONE)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad():
        with BEFORE(tiny.model) as handle:
            out = tiny.model(**inputs, output_attentions=True)
            assert [a.shape[-1] for a in out.attentions] == 2 * [handle.columns.shape[1]]
        with INSIDE[0](tiny.model) as handle:
            out = tiny.model(**inputs, output_attentions=True)
            (report,) = handle.report
            left = length - report.before + report.after
            assert [a.shape[-2:] for a in out.attentions] == [(length, length), (left, left)]
            assert len(report.stages[1]) == report.after


def test_the_cache_is_shorter(tiny):
    inputs = tiny.inputs(ONE)
    with torch.no_grad(), BEFORE(tiny.model) as handle:
        out = tiny.model(**inputs, use_cache=True)
        cache = out.get("cache") or out.get("past_key_values")
        assert cache.get_seq_length() == handle.columns.shape[1] == out.logits.shape[1]


def test_loss_and_tuple_outputs(setup):
    inputs = setup.inputs(ONE)
    with torch.no_grad(), BEFORE(setup.model):
        out = setup.model(**inputs, labels=inputs["input_ids"], use_cache=False)
        parts = setup.model(
            **inputs, labels=inputs["input_ids"], use_cache=False, return_dict=False
        )
    assert torch.equal(parts[0], out.loss) and torch.equal(parts[1], out.logits)


def test_columns_before_a_call_and_of_embeddings(tiny):
    with BEFORE(tiny.model) as handle, torch.no_grad():
        assert handle.columns is None and handle.attention_mask is None
        with pytest.raises(ValueError, match="there was no call with input_ids yet"):
            handle.take(torch.ones(1, 5))
        inputs = tiny.inputs(ONE)
        tiny.model(**inputs)
        kept = handle.columns
        assert torch.equal(handle.take(inputs["input_ids"])[0], inputs["input_ids"][0, kept[0]])
        weights = torch.rand(1, inputs["input_ids"].shape[1], 2, 3)
        assert torch.equal(handle.take(weights)[0], weights[0, kept[0]])
        with pytest.raises(ValueError, match=r"a tensor of shape \[1, 5\] does not fit"):
            handle.take(torch.ones(1, 5))
        tiny.model(inputs_embeds=torch.zeros(1, 3, 64, dtype=torch.float64))
        assert handle.columns is None
        words = tiny.inputs(TEXT)
        tiny.model(**words)
        assert torch.equal(handle.columns, torch.arange(words["input_ids"].shape[1])[None])
        with pytest.raises(ValueError, match=r"whose input_ids had the shape \[1, \d+\]"):
            handle.take(torch.ones(1, words["input_ids"].shape[1] + 4))


@pytest.mark.parametrize("method", [BEFORE, *INSIDE], ids=lambda m: type(m).__name__)
def test_columns_of_a_second_turn_of_generate(tiny, method):
    """Those of the new tokens alone, whose states come out."""
    inputs = tiny.inputs(TEXT)
    options = {"do_sample": False, "max_new_tokens": 3, "return_dict_in_generate": True}
    with method(tiny.model) as handle:
        first = tiny.model.generate(**inputs, **options)
        ids = torch.cat([first.sequences, tiny.ids("is it red ?")], 1)
        cache = first.get("cache") or first.get("past_key_values")
        out = tiny.model.generate(
            ids, attention_mask=torch.ones_like(ids), past_key_values=cache,
            output_hidden_states=True, **options,
        )  # fmt: skip
        length = out.hidden_states[0][-1].shape[1]
        assert handle.columns.shape == handle.attention_mask.shape == (1, length)
        assert torch.equal(handle.columns[0], torch.arange(ids.shape[1])[-length:])
