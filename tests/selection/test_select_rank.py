"""Degenerate matrices: exactly k distinct tokens come back, in a defined order."""

from __future__ import annotations

import pytest
import torch

from sparevlm.selection import select

from .data import gaussian, low_rank, uniform

pytestmark = pytest.mark.usefixtures("source")
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])


@both
def test_one_token(dtype: torch.dtype) -> None:
    found = select(torch.tensor([[3, 4]], dtype=dtype), 1)
    assert found.order.tolist() == [0]
    assert found.residual.tolist() == [1, 0]
    assert found.count == 1


@both
def test_one_feature(dtype: torch.dtype) -> None:
    found = select(torch.tensor([[1], [-3], [2]], dtype=dtype), 3)
    assert found.order.tolist() == [1, 2, 0]
    assert found.residual.tolist() == [1, 0, 0, 0]


@both
def test_more_tokens_than_there_are_keeps_all(dtype: torch.dtype) -> None:
    x = gaussian(7, 9, seed=1, dtype=dtype)
    all_of_it = select(x, 7)
    for k in (8, 700, 2**62):
        found = select(x, k)
        assert torch.equal(found.order, all_of_it.order)
        assert torch.equal(found.residual, all_of_it.residual)
    assert sorted(all_of_it.order.tolist()) == list(range(7))


@both
def test_zero_matrix(dtype: torch.dtype) -> None:
    found = select(torch.zeros(5, 3, dtype=dtype), 4)
    assert found.order.tolist() == [0, 1, 2, 3]
    assert found.residual.tolist() == [0] * 5


@both
def test_many_zero_rows_come_by_index(dtype: torch.dtype) -> None:
    x = torch.zeros(3000, 2, dtype=dtype)
    x[1700, 0] = 1
    assert select(x, 400).order.tolist() == [1700, *range(399)]


@both
def test_zero_rows_come_last(dtype: torch.dtype) -> None:
    x = gaussian(8, 8, seed=2, dtype=dtype)
    x[[0, 3, 6]] = 0
    assert select(x, 8).order.tolist()[5:] == [0, 3, 6]


@both
def test_constant_rows(dtype: torch.dtype) -> None:
    found = select(torch.full((9, 6), 0.3, dtype=dtype), 5)
    assert found.order.tolist() == [0, 1, 2, 3, 4]
    assert found.residual[1:].max() < 1e-6


@both
@pytest.mark.parametrize("rank", [1, 3, 10])
def test_low_rank_fills_up_by_norm(dtype: torch.dtype, rank: int) -> None:
    x = low_rank(40, 20, rank, seed=3).to(dtype)
    order = select(x, 25).order.tolist()
    norms = x.norm(dim=1)
    norms[order[:rank]] = -1
    assert order[rank:] == norms.argsort(descending=True)[: 25 - rank].tolist()


@both
def test_low_rank_fills_up_by_weighted_norm(dtype: torch.dtype) -> None:
    x, w = low_rank(40, 20, 4, seed=4).to(dtype), uniform(40, seed=4)
    order = select(x, 25, weights=w).order.tolist()
    norms = x.norm(dim=1) * w
    norms[order[:4]] = -1
    assert order[4:] == norms.argsort(descending=True)[:21].tolist()
    assert order != select(x, 25).order.tolist()


@both
def test_residual_is_flat_from_the_rank_on(dtype: torch.dtype) -> None:
    residual = select(low_rank(40, 20, 4, seed=5).to(dtype), 25).residual
    assert residual[3] > 1e-3
    assert residual[4] < 1e-5
    assert residual[4:].unique().numel() == 1


@both
def test_floor_is_what_rounding_leaves(dtype: torch.dtype) -> None:
    # With N = 3, rows of a squared norm below 3 eps^2 of the largest are taken for rounding.
    x = torch.tensor([[1, 0, 0], [5e-4, 1e-4, 0], [0, 0, 4e-4]])
    assert select(x.to(dtype), 3).order.tolist() == [0, 2, 1]
    eps = torch.finfo(dtype).eps
    x = torch.tensor([[1, 0, 0], [1.5 * eps, 1e-3 * eps, 0], [0, 0, eps]], dtype=dtype)
    assert select(x, 3).order.tolist() == [0, 1, 2]  # by norm, although row 2 is farther out


@both
def test_all_weights_zero(dtype: torch.dtype) -> None:
    found = select(gaussian(6, 4, seed=6, dtype=dtype), 3, weights=torch.zeros(6))
    assert found.order.tolist() == [0, 1, 2]
    assert found.residual.tolist() == [0] * 4


@both
def test_tokens_of_weight_zero_come_last(dtype: torch.dtype) -> None:
    w = torch.ones(10)
    w[[1, 4, 5]] = 0
    order = select(gaussian(10, 12, seed=7, dtype=dtype), 10, weights=w).order.tolist()
    assert order[7:] == [1, 4, 5]


@both
def test_tokens_of_weight_zero_do_not_count_as_error(dtype: torch.dtype) -> None:
    w = torch.ones(10)
    w[[1, 4, 5]] = 0
    residual = select(gaussian(10, 12, seed=8, dtype=dtype), 10, weights=w).residual
    assert residual[6] > 1e-3
    assert residual[7] < 1e-6
