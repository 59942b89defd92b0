"""Batches of small images on a CPU, which go through one loop."""

from __future__ import annotations

import gc
import sys

import pytest
import torch

from sparevlm.selection import pivoting, select

from .data import gaussian, low_rank


def calls(images: int, k: int) -> int:
    """Calls of compiled code that a selection makes."""
    x = torch.stack([gaussian(60, 24, seed=i, dtype=torch.float32) for i in range(images)])
    count = 0

    def note(frame, event, arg):
        nonlocal count
        count += event == "c_call"

    select(x, k)
    gc.disable()  # other tests' garbage would be counted
    sys.setprofile(note)
    try:
        select(x, k)
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


def test_a_step_costs_a_batch_the_same_calls_whatever_its_size(monkeypatch, loops) -> None:
    monkeypatch.setattr(pivoting, "_way", lambda *_: "gram")
    one, two, eight = (calls(b, 20) - calls(b, 10) for b in (1, 2, 8))
    if loops == "compiled":
        assert one == two == eight == 0
    else:
        assert 0 < one <= two == eight  # one by itself goes by vectors, in fewer


@pytest.mark.parametrize("k", [5, 40])
def test_a_batch_equals_its_singles(k) -> None:
    x = torch.stack([gaussian(60, 24, seed=i, dtype=torch.float32) for i in range(6)])
    w = torch.rand(6, 60, generator=torch.Generator().manual_seed(0))
    for weights in (None, w):
        batch = select(x, k, weights=weights)
        for b in range(6):
            one = select(x[b], k, weights=None if weights is None else weights[b])
            assert torch.equal(batch.order[b], one.order)
            assert torch.equal(batch.residual[b], one.residual)


def test_an_image_of_low_rank_changes_no_other() -> None:
    x = torch.stack([gaussian(60, 24, seed=i) for i in range(4)])
    expected = select(x, 10)
    x[2] = low_rank(60, 24, 3, seed=7)
    found = select(x, 10)
    assert len(set(found.order[2].tolist())) == 10
    others = [0, 1, 3]
    assert torch.equal(found.order[others], expected.order[others])
    assert torch.equal(found.residual[others], expected.residual[others])


def test_a_bad_value_is_named_with_its_image() -> None:
    x = torch.stack([gaussian(60, 24, seed=i) for i in range(4)])
    x[2, 17, 3] = torch.nan
    with pytest.raises(ValueError, match="image 2, row 17"):
        select(x, 10)


def test_features_that_want_gradients() -> None:
    x = gaussian(60, 24, seed=1).requires_grad_()
    assert len(select(x, 5).order) == 5
