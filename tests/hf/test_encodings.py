"""Methods that are asked about the same tensors share one run of the encoder."""

from __future__ import annotations

import pytest
import torch

from sparevlm import SPARE, DivPrune, FasterVLM, KCenter
from sparevlm.hf.encodings import remembering
from tests.hf.conftest import ONE


@pytest.fixture
def counted(tiny):
    """The model, its inputs, and the times that its tower ran."""
    runs = []
    tiny.model.model.vision_tower.register_forward_pre_hook(lambda *a: runs.append(1))
    return tiny.model, tiny.inputs(ONE), runs


def kept(model, inputs, method):
    with method(model) as handle, torch.no_grad():
        logits = model(**inputs).logits
    return handle.report[0].indices, logits


METHODS = [DivPrune(9), KCenter(20), DivPrune(30), SPARE(9, guidance="none")]


def test_once_for_methods_with_the_same_needs(counted):
    model, inputs, runs = counted
    expected = [kept(model, inputs, method) for method in METHODS]
    assert len(runs) == len(METHODS)
    runs.clear()
    with remembering() as encodings:
        for method, (indices, logits) in zip(METHODS, expected, strict=True):
            found = kept(model, inputs, method)
            assert torch.equal(found[0], indices) and torch.equal(found[1], logits)
        assert len(runs) == 1 and encodings.saved > 0
    kept(model, inputs, METHODS[0])
    assert len(runs) == 2


def test_other_needs_other_tensors_and_what_is_forgotten(counted):
    model, inputs, runs = counted
    expected = kept(model, inputs, FasterVLM(9))
    runs.clear()
    with remembering() as encodings:
        kept(model, inputs, DivPrune(9))
        found = kept(model, inputs, FasterVLM(9))  # needs attention
        assert len(runs) == 2 and torch.equal(found[0], expected[0])
        others = dict(inputs, pixel_values=inputs["pixel_values"].clone().flip(-1))
        kept(model, others, DivPrune(9))
        assert len(runs) == 3
        encodings.forget()
        kept(model, inputs, DivPrune(9))
        assert len(runs) == 4
