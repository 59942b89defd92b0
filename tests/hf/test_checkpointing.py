"""Gradient checkpointing: gradients are those without it, wherever tokens are dropped."""

from __future__ import annotations

from importlib.metadata import version

import pytest
import torch

from sparevlm.methods import (
    SPARE,
    DARTDecoder,
    FastV,
    PyramidDrop,
    SPAREDecoder,
    SparseVLM,
    Staged,
    TransPrune,
)
from tests.families.matrix import made
from tests.hf.conftest import ONE, TEXT, TWO

METHODS = {
    "before": SPARE(10, guidance="none"),
    "fastv": FastV(0.5, layer=1, average=False),
    "fastv-all": FastV(0.5, layer=1, average=False, asking="all"),
    "dart": DARTDecoder(0.5, layer=1, average=False),
    "spare": SPAREDecoder(0.5, layer=1, average=False),
    "pyramid": PyramidDrop(0.5),
    "sparsevlm": SparseVLM(0.5, recycle=False),
    "transprune": TransPrune(0.5),
    "staged": Staged(SPARE(20, guidance="none"), FastV(0.5, layer=1, average=False)),
}


def gradients(model, inputs, labels):
    model.zero_grad()
    loss = model(**inputs, labels=labels).loss
    loss.backward()
    return loss.detach(), {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }


def check(model, inputs, method, reentrant):
    labels = inputs["input_ids"].clone()
    labels[inputs["attention_mask"] == 0] = -100
    model.train()
    try:
        with method(model):
            loss, plain = gradients(model, inputs, labels)
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            again, found = gradients(model, inputs, labels)
            twice, _ = gradients(model, inputs, labels)
    finally:
        model.gradient_checkpointing_disable()
        model.eval()
        model.zero_grad()
    assert torch.equal(loss, again) and torch.equal(loss, twice)
    assert plain.keys() == found.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_gradients(pocket, method, reentrant):
    check(pocket.model, pocket.inputs(ONE, TWO, TEXT, side="right"), method, reentrant)


def test_merged_rows(pocket):
    """They have gradients of their own; where checkpointing cannot make them, it says so."""
    inputs = pocket.inputs(ONE)
    if version("transformers") >= "5.23":
        check(pocket.model, inputs, SparseVLM(0.5), reentrant=False)
        return
    with pytest.raises(ValueError, match="merges tokens, which gradient checkpointing cannot run"):
        check(pocket.model, inputs, SparseVLM(0.5), reentrant=False)
    check(pocket.model, inputs, SPARE(10, guidance="none"), reentrant=False)  # still usable


@pytest.mark.parametrize("method", ["before", "fastv"])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "idefics3"])
def test_families(name, method):
    family = made(name)
    inputs = family.inputs("user : <image> what color is the star ? assistant :")
    way = FastV(0.5, layer=1, average=False) if method == "fastv" else SPARE(7, guidance="none")
    check(family.model, inputs, way, reentrant=False)
