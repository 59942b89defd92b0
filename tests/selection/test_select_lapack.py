"""Selection against LAPACK's QR with column pivoting, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import qr
from torch import Tensor

from sparevlm.selection import select

from .data import gaussian, low_rank, uneven

pytestmark = pytest.mark.usefixtures("source")

SHAPES = [(5, 3), (3, 5), (40, 40), (60, 25), (25, 60), (200, 64)]


def lapack(x: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    r, pivots = qr(x.numpy().T, pivoting=True, mode="r")
    return r, pivots


def pivot_sizes(x: Tensor, order: Tensor) -> NDArray[np.float64]:
    return np.abs(np.diag(np.linalg.qr(x[order].numpy().T, mode="r")))


@pytest.mark.parametrize("shape", SHAPES)
def test_pivots_of_random_matrix(shape: tuple[int, int]) -> None:
    x = gaussian(*shape, seed=1)
    k = min(shape)
    assert select(x, k).order.tolist() == lapack(x)[1][:k].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_residual_of_random_matrix(shape: tuple[int, int]) -> None:
    x = gaussian(*shape, seed=2)
    k = min(shape)
    r, _ = lapack(x)
    left = [(r[t:] ** 2).sum() / (r**2).sum() for t in range(k + 1)]
    assert np.allclose(select(x, k).residual, left, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("rank", [1, 7, 20])
def test_leading_pivots_of_low_rank_matrix(rank: int) -> None:
    x = low_rank(70, 40, rank, seed=3)
    found = select(x, 40)
    assert found.order[:rank].tolist() == lapack(x)[1][:rank].tolist()
    assert found.residual[rank - 1] > 1e-6
    assert found.residual[rank] < 1e-12


def test_diagonal_of_matrix_with_duplicate_rows() -> None:
    x = gaussian(20, 15, seed=4).repeat(3, 1)
    found = select(x, 15)
    assert np.allclose(pivot_sizes(x, found.order), np.abs(np.diag(lapack(x)[0])), rtol=1e-10)
    assert len(set((found.order % 20).tolist())) == 15


@pytest.mark.parametrize("scale", [1e-150, 1e-80, 1e80, 1e150])
def test_pivots_of_badly_scaled_matrix(scale: float) -> None:
    x = gaussian(50, 30, seed=5)
    found = select(x * scale, 30)
    assert found.order.tolist() == lapack(x)[1][:30].tolist()
    assert torch.allclose(found.residual, select(x, 30).residual, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("decades", [2, 6, 12])
def test_pivots_of_uneven_rows(decades: int) -> None:
    x = uneven(60, 60, decades, seed=6)
    r, pivots = lapack(x)
    sizes = np.diag(r) ** 2
    seen = int((sizes > 60 * np.finfo(np.float64).eps * sizes[0]).sum())
    assert seen > 30
    assert select(x, 60).order[:seen].tolist() == pivots[:seen].tolist()


def test_fp32_picks_as_fp64_on_well_conditioned_rows() -> None:
    x = gaussian(150, 80, seed=7, dtype=torch.float32)
    assert select(x, 30).order.tolist() == lapack(x.double())[1][:30].tolist()
