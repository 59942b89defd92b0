"""The same selection on a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch

from sparevlm.selection import reconstruction_error, select, svd_bound

from .data import gaussian, low_rank, uniform

pytestmark = [
    pytest.mark.usefixtures("source"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_picks_as_on_the_cpu() -> None:
    x, w = gaussian(300, 200, seed=1), uniform(300, seed=1)
    here, there = select(x, 100, weights=w), select(x.cuda(), 100, weights=w.cuda())
    assert there.order.is_cuda
    assert torch.equal(here.order, there.order.cpu())
    assert torch.allclose(here.residual, there.residual.cpu(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_batch_equals_singles(dtype: torch.dtype) -> None:
    x = torch.stack((gaussian(150, 67, seed=2), low_rank(150, 67, 9, seed=3))).to("cuda", dtype)
    found = select(x, 50)
    for b in range(2):
        single = select(x[b].clone(), 50)
        assert torch.equal(found.order[b], single.order)
        assert torch.equal(found.residual[b], single.residual)


def test_ties_go_to_the_lowest_index() -> None:
    x = torch.eye(3000, 64, device="cuda").roll(700, 0).repeat(2, 1)
    assert select(x, 64).order.tolist() == list(range(700, 764))


def test_low_rank_fills_up_by_norm() -> None:
    x = low_rank(200, 40, 5, seed=4).cuda()
    assert torch.equal(select(x, 60).order.cpu(), select(x.cpu(), 60).order)


def test_tol_needs_no_more_tokens_than_on_the_cpu() -> None:
    x = torch.stack((low_rank(120, 40, 3, seed=5), gaussian(120, 40, seed=6)))
    here, there = select(x, 120, tol=0.05), select(x.cuda(), 120, tol=0.05)
    assert torch.equal(here.count, there.count.cpu())
    assert torch.equal(here.order, there.order.cpu())


def test_shortened_tensors_hold_no_more_than_they_show() -> None:
    found = select(gaussian(200, 20, seed=9).cuda(), 200, tol=0.5)
    assert found.order.untyped_storage().nbytes() == 8 * len(found.order)
    assert found.residual.untyped_storage().nbytes() == 8 * len(found.residual)


def test_tf32_has_no_effect() -> None:
    x = gaussian(400, 512, seed=7, dtype=torch.float32).cuda()
    plain = select(x, 200)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert torch.equal(select(x, 200).residual, plain.residual)
    finally:
        torch.set_float32_matmul_precision(before)


def test_measures() -> None:
    x, kept = gaussian(60, 40, seed=8), torch.tensor([3, 1, 4])
    assert reconstruction_error(x.cuda(), kept).cpu() == pytest.approx(
        float(reconstruction_error(x, kept)), rel=1e-9
    )
    assert torch.allclose(svd_bound(x.cuda()).cpu(), svd_bound(x), atol=1e-12)
