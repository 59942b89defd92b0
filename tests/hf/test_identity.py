"""keep = everything is the unpruned model, bit for bit."""

from __future__ import annotations

import pytest
import torch
from transformers import set_seed

from sparevlm.methods import SPARE, UniformGrid
from tests.hf.conftest import ONE, SHORT, TEXT, TWO

GENERATIONS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampled": {"do_sample": True, "top_k": 20, "num_return_sequences": 2},
    "static": {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
    "uncached": {"do_sample": False, "use_cache": False},
}


@pytest.mark.parametrize("keep", [1.0, 196, 5000])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_forward_is_bit_identical(setup, keep, positions):
    inputs = setup.inputs(ONE, TEXT)
    labels = inputs["input_ids"].clone()
    with torch.no_grad():
        expected = setup.model(**inputs, labels=labels, output_hidden_states=True)
        with SPARE(keep, guidance="none", positions=positions)(setup.model) as handle:
            found = setup.model(**inputs, labels=labels, output_hidden_states=True)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.loss, expected.loss)
    # One tensor up to transformers 5.23, a list of them from 5.24 on.
    ours, theirs = (
        torch.cat([rows.reshape(-1, rows.shape[-1]) for rows in out.image_hidden_states])
        for out in (found, expected)
    )
    assert len(ours) == 196 and torch.equal(ours, theirs)
    for ours, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert torch.equal(ours, theirs)
    assert [(r.before, r.after) for r in handle.report] == [(196, 196)]


@pytest.mark.parametrize("way", list(GENERATIONS))
def test_generations_are_identical(setup, way):
    inputs = setup.inputs(ONE, SHORT)
    options = GENERATIONS[way] | {"max_new_tokens": 6}
    set_seed(3)
    expected = setup.model.generate(**inputs, **options)
    with UniformGrid(1.0)(setup.model):
        set_seed(3)
        found = setup.model.generate(**inputs, **options)
    assert torch.equal(found, expected)


def test_generated_logits_are_identical(setup):
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "return_dict_in_generate": True,
        "output_logits": True,
    }
    inputs = setup.inputs(TWO, ONE)
    expected = setup.model.generate(**inputs, **options)
    with UniformGrid(196)(setup.model):
        found = setup.model.generate(**inputs, **options)
    for ours, theirs in zip(found.logits, expected.logits, strict=True):
        assert torch.equal(ours, theirs)


def test_inputs_keep_every_tensor(setup):
    inputs = setup.inputs(TWO, ONE)
    pruned = UniformGrid(1.0).prune_inputs(setup.model, inputs)
    assert pruned["input_ids"] is inputs["input_ids"]
    assert pruned["attention_mask"] is inputs["attention_mask"]
    assert "pixel_values" not in pruned
    assert set(pruned) == {"input_ids", "attention_mask", "mm_encoder_outputs"}


def test_text_only_prompts_are_left_alone(setup):
    inputs = setup.inputs(TEXT)
    expected = setup.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    with SPARE(4)(setup.model, relevance="none") as handle:
        assert torch.equal(
            setup.model.generate(**inputs, max_new_tokens=5, do_sample=False), expected
        )
        assert torch.equal(setup.model(**inputs).logits, setup.model(**inputs).logits)
    assert handle.report == []
