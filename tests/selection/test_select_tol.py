"""Stopping at a tolerated residual."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.selection import select

from .data import gaussian, low_rank, seeds, sizes, uniform

pytestmark = pytest.mark.usefixtures("source")


@given(n=sizes, d=sizes, k=sizes, seed=seeds, tol=st.floats(1e-6, 1))
@settings(deadline=None, max_examples=60)
def test_fewest_tokens_that_reach_it(n: int, d: int, k: int, seed: int, tol: float) -> None:
    x, w = gaussian(n, d, seed=seed), uniform(n, seed=seed)
    full, found = select(x, k, weights=w), select(x, k, weights=w, tol=tol)
    reached = [t for t in range(1, min(k, n) + 1) if full.residual[t] <= tol]
    count = reached[0] if reached else min(k, n)
    assert found.count == count
    assert torch.equal(found.order, full.order[:count])
    assert torch.equal(found.residual, full.residual[: count + 1])


def test_residual_at_the_count() -> None:
    found = select(gaussian(60, 40, seed=1), 60, tol=0.05)
    assert 1 < found.count < 40
    assert found.residual[found.count] <= 0.05 < found.residual[found.count - 1]


def test_residual_equal_to_it_is_enough() -> None:
    half = torch.eye(4)
    half[2:] = 0
    found = select(torch.stack((half, torch.eye(4))), 4, tol=0.5)
    assert found.residual.tolist() == [[1, 0.5, 0], [1, 0.75, 0.5]]
    assert found.count.tolist() == [1, 2]


def test_zero_does_not_stop() -> None:
    found = select(low_rank(30, 20, 3, seed=2), 25, tol=0)
    assert len(found.order) == found.count == 25


def test_out_of_reach_keeps_k() -> None:
    found = select(gaussian(30, 20, seed=3), 4, tol=1e-3)
    assert len(found.order) == found.count == 4
    assert found.residual[-1] > 1e-3


def test_below_rounding_keeps_k() -> None:
    found = select(low_rank(30, 20, 3, seed=4).float(), 12, tol=1e-30)
    assert found.count == 12
    assert len(set(found.order.tolist())) == 12


def test_one_keeps_a_single_token() -> None:
    found = select(gaussian(30, 20, seed=5), 12, tol=1.0)
    assert found.order.shape == (1,)
    assert found.count == 1


def test_zero_energy_keeps_a_single_token() -> None:
    assert select(torch.zeros(5, 3), 4, tol=0.5).count == 1


def test_batch_is_as_long_as_its_longest() -> None:
    x = torch.stack((low_rank(40, 30, 2, seed=6), gaussian(40, 30, seed=7), torch.zeros(40, 30)))
    found = select(x, 40, tol=0.1)
    singles = [select(image.clone(), 40, tol=0.1) for image in x]
    assert found.count.tolist() == [int(single.count) for single in singles]
    assert found.order.shape == (3, int(found.count.max()))
    assert found.residual.shape == (3, int(found.count.max()) + 1)
    for b, single in enumerate(singles):
        assert torch.equal(found.order[b, : single.count], single.order)
        assert torch.equal(found.residual[b, : single.count + 1], single.residual)


def test_batch_goes_on_as_without_tol() -> None:
    x = torch.stack((low_rank(40, 30, 2, seed=8), gaussian(40, 30, seed=9)))
    found = select(x, 40, tol=0.1)
    full = select(x, 40)
    assert torch.equal(found.order, full.order[:, : found.order.shape[1]])
    assert torch.equal(found.residual, full.residual[:, : found.residual.shape[1]])
