"""Where little is left: float32 keeps what float64 keeps, by every way to inner products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench.precision import agreement, falling, stretched
from sparevlm.selection import reconstruction_error, select, select_each
from sparevlm.selection.deeper import remaining_gram, residual_rows, weighted_gram

from .data import gaussian, low_rank, uniform

pytestmark = pytest.mark.usefixtures("source")


@pytest.mark.parametrize("power", [1, 2, 3])
def test_float32_keeps_what_float64_keeps(power: float) -> None:
    pictures = [falling(100, 80, power, seed) for seed in range(5)]
    assert agreement(pictures, [10, 25, 40]) == [1, 1, 1]


def test_one_long_token_hides_no_others() -> None:
    pictures = [stretched(falling(100, 80, 1, seed), times=1000) for seed in range(5)]
    assert agreement(pictures, [10, 25, 40]) == [1, 1, 1]


def test_weights_of_any_size() -> None:
    x = falling(60, 50, 2, 3)
    w = torch.logspace(0, -5, 60, dtype=torch.float64)[torch.randperm(60)]
    found, exact = select(x, 25, weights=w), select(x.double(), 25, weights=w)
    assert set(found.order.tolist()) == set(exact.order.tolist())


def test_residual_is_right_to_the_end() -> None:
    x = falling(60, 50, 3, 4)
    found = select(x, 30)
    for k in (5, 15, 30):
        left = float(reconstruction_error(x, found.order[:k]))
        assert float(found.residual[k]) == pytest.approx(left, rel=1e-3)
    assert bool((found.residual.diff() <= 0).all())


def test_a_tolerance_below_eps() -> None:
    x = falling(60, 50, 3, 5)
    exact = select(x.double(), 60, tol=1e-9)
    found = select(x, 60, tol=1e-9)
    assert found.count == exact.count > 20
    assert set(found.order.tolist()) == set(exact.order.tolist())


def test_a_batch_of_shallow_and_deep() -> None:
    images = torch.stack(
        [
            falling(60, 50, 3, 6),
            gaussian(60, 50, seed=7).float(),
            low_rank(60, 50, 9, seed=8).float(),
        ]
    )
    for tol in (0.0, 1e-4, 1e-9):
        batch = select(images, 40, tol=tol)
        for b, x in enumerate(images):
            single = select(x, 40, tol=tol)
            count = int(single.count)
            assert int(batch.count[b]) == count
            assert torch.equal(batch.order[b, :count], single.order[:count])
            assert torch.equal(batch.residual[b, : count + 1], single.residual[: count + 1])


def test_pictures_of_unlike_size() -> None:
    pictures = [falling(n, 40, 3, n) for n in (30, 60, 45)]
    ks, weights = [20, 35, 30], [None, uniform(60, seed=1), None]
    together = select_each(pictures, ks, weights)
    for x, k, w, found in zip(pictures, ks, weights, together, strict=True):
        single = select(x, k, weights=w)
        assert torch.equal(found.order, single.order)
        assert torch.equal(found.residual, single.residual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_but_one_of_nearly_dependent_rows(dtype: torch.dtype) -> None:
    x = gaussian(20, 30, seed=9, dtype=torch.float64)[:1].repeat(20, 1)
    x = (x + 1e-5 * gaussian(20, 30, seed=10)).to(dtype)
    order = select(x, 19).order
    assert len(set(order.tolist())) == 19
    assert torch.equal(order, select(x.double(), 19).order)


def test_half_precision_near_overflow() -> None:
    x = (60000 * torch.tanh(falling(50, 40, 3, 11))).half()
    assert set(select(x, 25).order.tolist()) == set(select(x.double(), 25).order.tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_all_rows_equal_but_one(dtype: torch.dtype) -> None:
    x = torch.ones(9, 6, dtype=dtype)
    x[5, 2] = 0.5
    assert select(x, 4).order.tolist() == [0, 5, 1, 2]


def _left(x: Tensor, kept: list[int]) -> Tensor:
    basis = torch.linalg.qr(x[kept].T).Q
    return x - (x @ basis) @ basis.T


def test_what_is_left_computed_either_way() -> None:
    x, w = gaussian(40, 30, seed=12), uniform(40, seed=12)
    kept = torch.tensor([3, 17, 21, 0])
    left = _left(x, kept.tolist())
    torch.testing.assert_close(residual_rows(x, kept), left, atol=1e-12, rtol=0)
    torch.testing.assert_close(residual_rows(x.float(), kept), left.float(), atol=1e-6, rtol=0)
    gram = remaining_gram(weighted_gram(x, w), kept)
    torch.testing.assert_close(
        gram, (left * w[:, None]) @ (left * w[:, None]).T, atol=1e-12, rtol=0
    )
    assert gram[kept].eq(0).all() and gram[:, kept].eq(0).all()
