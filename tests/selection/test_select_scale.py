"""Extreme scales of features and weights, and every dtype."""

from __future__ import annotations

import pytest
import torch

from sparevlm.selection import select

from .data import gaussian, uneven, uniform

pytestmark = pytest.mark.usefixtures("source")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_worked_on_in_fp32(dtype: torch.dtype) -> None:
    x = gaussian(50, 40, seed=1).to(dtype)
    found, single = select(x, 30), select(x.float(), 30)
    assert torch.equal(found.order, single.order)
    assert torch.equal(found.residual, single.residual)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes_that_come_back(dtype: torch.dtype) -> None:
    found = select(gaussian(5, 4, dtype=dtype), 3)
    assert found.order.dtype == found.count.dtype == torch.int64
    assert found.residual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_fp64_sees_what_fp32_does_not() -> None:
    x = torch.eye(3, dtype=torch.float64)
    x[1, 1], x[2, 2] = 1e-6, 2e-6
    assert float(select(x, 1).residual[1]) == pytest.approx(5e-12, rel=1e-6)


@pytest.mark.parametrize("power", [-110, -60, 60, 120])
def test_fp32_of_any_scale(power: int) -> None:
    x = gaussian(30, 20, seed=2, dtype=torch.float32)
    assert torch.equal(x * 2.0**power / 2.0**power, x)
    found, scaled = select(x, 20), select(x * 2.0**power, 20)
    assert torch.equal(found.order, scaled.order)
    assert torch.equal(found.residual, scaled.residual)


def test_fp16_near_its_largest_and_smallest() -> None:
    x = gaussian(30, 20, seed=3).half()
    assert select(x * 2**13, 20).order.tolist() == select(x, 20).order.tolist()
    tiny = torch.tensor([[1, 0], [3, 0], [0, 2]]).half() * 2.0**-24  # subnormal
    assert select(tiny, 3).order.tolist() == [1, 2, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_rows_out_of_sight_come_by_norm(dtype: torch.dtype) -> None:
    decades = 30 if dtype == torch.float32 else 250
    x = uneven(40, 30, decades, seed=4).to(dtype)
    order = select(x, 40).order
    peaks = x.abs().amax(1)
    exact = x.double() / peaks[:, None]
    logs = exact.norm(dim=1).log() + peaks.double().log()
    assert order[5:].tolist() == logs.argsort(descending=True)[5:].tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("power", [-1000, -200, 200, 1000])
def test_one_scale_of_the_weights_changes_nothing(dtype: torch.dtype, power: int) -> None:
    x, w = gaussian(30, 20, seed=5, dtype=dtype), uniform(30, seed=5)
    found, scaled = select(x, 20, weights=w), select(x, 20, weights=w * 2.0**power)
    assert torch.equal(found.order, scaled.order)
    assert torch.equal(found.residual, scaled.residual)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_large_weight_on_a_zero_row_hides_no_other(dtype: torch.dtype) -> None:
    x = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=dtype)
    w = torch.tensor([1, 1e-200, 1e-200], dtype=torch.float64)
    found = select(x, 3, weights=w)
    assert found.order.tolist() == [2, 1, 0]
    assert found.residual.tolist() == pytest.approx([1, 0.2, 0, 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_large_weights_on_tiny_rows(dtype: torch.dtype) -> None:
    x, w = gaussian(20, 12, seed=6, dtype=dtype), torch.ones(20, dtype=torch.float64)
    x[::2] *= 2.0**-100
    w[1::2] *= 2.0**-110
    weighted = x.double() * w[:, None]
    assert weighted[::2].norm() > 500 * weighted[1::2].norm()
    found = select(x, 6, weights=w)
    assert found.order[:6].tolist() == (2 * select(x[::2], 6).order).tolist()
    assert found.residual[6] < 0.9


def test_weight_on_a_subnormal_row_alone() -> None:
    x = torch.tensor([[1e-320, 0], [1, 0]], dtype=torch.float64)
    found = select(x, 2, weights=torch.tensor([1, 0]))
    assert found.order.tolist() == [0, 1]
    assert found.residual.tolist() == [1, 0, 0]


def test_weights_finer_than_fp32_still_order_the_rest() -> None:
    w = torch.tensor([1, 1e-50, 1e-48, 1e-49, 1e-47, 0.5], dtype=torch.float64)
    assert select(torch.eye(6), 6, weights=w).order.tolist() == [0, 5, 4, 2, 3, 1]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32])
def test_weights_of_any_real_dtype(dtype: torch.dtype) -> None:
    x, w = gaussian(10, 12, seed=7), torch.tensor([1, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    assert torch.equal(select(x, 7, weights=w.to(dtype)).order, select(x, 7, weights=w).order)
