"""Greedy column subset selection against trying every row at every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.selection import greedy_css, reconstruction_error, select, svd_bound

from .data import gaussian, low_rank, rotation, seeds
from .reference import literal_greedy_css

few = st.integers(1, 10)


@given(n=few, d=few, seed=seeds)
@settings(deadline=None, max_examples=40)
def test_order_and_residual(n: int, d: int, seed: int) -> None:
    x, k = gaussian(n, d, seed=seed), min(n, d)
    order, residual = literal_greedy_css(x, k)
    found = greedy_css(x, k)
    # Any pick completes the basis: the last of min(N, D) is a tie.
    assert found.order[: k - 1].tolist() == order[: k - 1]
    assert np.allclose(found.residual, residual, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("decay", [0.6, 0.3])
def test_steep_spectrum(decay: float) -> None:
    d = 20
    x = gaussian(30, d, seed=1) * decay ** torch.arange(d) @ rotation(d, seed=2)
    order, residual = literal_greedy_css(x, d - 1)
    seen = int((np.array(residual) > 1e-11).sum()) - 1
    assert seen > 8
    found = greedy_css(x, d - 1)
    assert found.order[:seen].tolist() == order[:seen]
    assert np.allclose(found.residual[: seen + 1], residual[: seen + 1], rtol=1e-3)


@given(n=few, d=few, seed=seeds)
@settings(deadline=None, max_examples=40)
def test_residual_is_between_bound_and_one(n: int, d: int, seed: int) -> None:
    x = gaussian(n, d, seed=seed)
    residual = greedy_css(x, n).residual
    assert residual[0] == 1
    assert bool((residual.diff() <= 0).all())
    assert bool((residual >= svd_bound(x) - 1e-12).all())


def test_residual_is_the_reconstruction_error() -> None:
    x = gaussian(40, 25, seed=3)
    found = greedy_css(x, 20)
    for t in (1, 5, 20):
        assert float(found.residual[t]) == pytest.approx(
            float(reconstruction_error(x, found.order[:t])), rel=1e-9
        )


def test_first_pick_is_never_worse_than_the_largest() -> None:
    x = torch.tensor([[3.0, 0, 0], [0, 2, 1], [0, 2, 0], [0, 2, -1]])
    assert select(x, 1).order.tolist() == [0]
    assert greedy_css(x, 1).order.tolist() == [2]


def test_ties_go_to_the_lowest_index() -> None:
    assert greedy_css(torch.eye(6), 6).order.tolist() == list(range(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_low_rank_fills_up_by_norm(dtype: torch.dtype) -> None:
    x = low_rank(30, 20, 3, seed=4).double()
    found = greedy_css(x, 12)
    norms = x.norm(dim=1)
    norms[found.order[:3]] = -1
    assert found.order[3:].tolist() == norms.argsort(descending=True)[:9].tolist()
    assert found.residual[3:].unique().numel() == 1


def test_zero_rows_and_zero_matrix() -> None:
    x = gaussian(6, 6, seed=5)
    x[[0, 2]] = 0
    assert greedy_css(x, 6).order.tolist()[4:] == [0, 2]
    found = greedy_css(torch.zeros(4, 3), 3)
    assert found.order.tolist() == [0, 1, 2]
    assert found.residual.tolist() == [0] * 4


def test_k_beyond_all_tokens_keeps_all() -> None:
    found = greedy_css(gaussian(5, 4, seed=6), 50)
    assert sorted(found.order.tolist()) == list(range(5))
    assert found.count == 5


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scale_changes_nothing(scale: float) -> None:
    x = gaussian(20, 12, seed=7)
    found, scaled = greedy_css(x, 11), greedy_css(x * scale, 11)
    assert torch.equal(found.order, scaled.order)
    assert torch.allclose(found.residual, scaled.residual, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_is_worked_out_in_fp64(dtype: torch.dtype) -> None:
    x = gaussian(20, 12, seed=8).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = greedy_css(x, 8)
    expected = greedy_css(x.double(), 8)
    assert torch.equal(found.order, expected.order)
    assert found.residual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found.residual, expected.residual.to(found.residual.dtype))


def test_batch_equals_singles() -> None:
    x = torch.stack((gaussian(15, 9, seed=9), low_rank(15, 9, 2), torch.zeros(15, 9)))
    found = greedy_css(x, 11)
    for b in range(3):
        single = greedy_css(x[b].clone(), 11)
        assert torch.equal(found.order[b], single.order)
        assert torch.equal(found.residual[b], single.residual)
        assert found.count[b] == single.count == 11


def test_input_is_not_modified() -> None:
    x = gaussian(9, 7, seed=10).requires_grad_()
    before = x.detach().clone()
    assert not greedy_css(x, 5).residual.requires_grad
    assert torch.equal(x, before)


@pytest.mark.parametrize("k", [0, -1, True, 1.5, float("nan"), None])
def test_k_must_be_a_positive_integer(k: Any) -> None:
    with pytest.raises(ValueError, match="k must be a positive integer"):
        greedy_css(gaussian(5, 4), k)


def test_bad_row_is_named() -> None:
    x = gaussian(2, 5, 4)
    x[1, 3, 0] = float("nan")
    with pytest.raises(ValueError, match="first in image 1, row 3"):
        greedy_css(x, 2)


def test_features_must_be_a_tensor() -> None:
    with pytest.raises(TypeError, match="features must be"):
        greedy_css(np.ones((3, 2)), 2)  # type: ignore[arg-type]
