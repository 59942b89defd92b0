"""Selection refuses what it cannot work on, and says why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sparevlm.selection import select

from .data import gaussian

X = gaussian(6, 4, dtype=torch.float32)
BATCH = gaussian(3, 6, 4, dtype=torch.float32)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_first_bad_row_is_named(bad: float, dtype: torch.dtype) -> None:
    x = X.clone().to(dtype)
    x[3, 1] = x[5, 0] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity, first in row 3:"):
        select(x, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_first_bad_row_of_a_batch_is_named(bad: float) -> None:
    x = BATCH.clone()
    x[1, 2, 0] = x[1, 4, 3] = x[2, 0, 0] = bad
    with pytest.raises(ValueError, match=r"first in image 1, row 2:"):
        select(x, 2)


def test_bad_row_of_weight_zero_is_named_too() -> None:
    x, w = X.clone(), torch.ones(6)
    x[4], w[4] = float("nan"), 0
    with pytest.raises(ValueError, match=r"first in row 4:"):
        select(x, 2, weights=w)


@pytest.mark.parametrize("largest", [torch.finfo(torch.float32).max, 1e30])
def test_large_numbers_are_not_infinity(largest: float) -> None:
    x = X.clone()
    x[3] = largest
    assert select(x, 2).order[0] == 3


@pytest.mark.parametrize("k", [0, -1, True, False, 1.5, 2.0, float("nan"), None, "2", [2]])
def test_k_must_be_a_positive_integer(k: Any) -> None:
    with pytest.raises(ValueError, match=r"k must be a positive integer .*, not "):
        select(X, k)


@pytest.mark.parametrize("k", [np.int64(2), np.uint8(2), torch.tensor(2)])
def test_k_may_be_any_integer(k: Any) -> None:
    assert select(X, k).order.shape == (2,)


@pytest.mark.parametrize("tol", [-0.1, 1.1, float("nan"), float("inf"), -1])
def test_tol_must_be_a_share(tol: float) -> None:
    with pytest.raises(ValueError, match=r"tol must lie in \[0, 1\]"):
        select(X, 2, tol=tol)


@pytest.mark.parametrize("tol", [True, "0.1", None, 1j, np.array([0.1, 0.2]), torch.ones(2)])
def test_tol_must_be_a_number(tol: Any) -> None:
    with pytest.raises(TypeError, match="tol must be a number, not "):
        select(X, 2, tol=tol)


@pytest.mark.parametrize("bad", [-1e-3, float("nan"), float("inf")])
def test_weights_must_be_finite_and_not_negative(bad: float) -> None:
    w = torch.ones(6)
    w[2] = bad
    with pytest.raises(ValueError, match="weights must be finite and not negative"):
        select(X, 2, weights=w)


@pytest.mark.parametrize("shape", [(), (5,), (7,), (6, 1), (1, 6), (3, 6)])
def test_weights_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one entry per token, \[6\] for features of shape"):
        select(X, 2, weights=torch.ones(shape))


@pytest.mark.parametrize("shape", [(), (3,), (3, 5), (6, 3), (1, 6), (3, 6, 1)])
def test_weights_must_fit_a_batch(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one entry per token, \[3, 6\] for features of shape"):
        select(BATCH, 2, weights=torch.ones(shape))


@pytest.mark.parametrize("weights", [[1.0] * 6, np.ones(6), 1.0])
def test_weights_must_be_a_tensor(weights: Any) -> None:
    with pytest.raises(TypeError, match=r"weights must be a torch\.Tensor or None, not "):
        select(X, 2, weights=weights)


def test_weights_must_be_real() -> None:
    with pytest.raises(TypeError, match="weights must be real"):
        select(X, 2, weights=torch.ones(6, dtype=torch.complex64))


@pytest.mark.parametrize("features", [X.tolist(), X.numpy(), None])
def test_features_must_be_a_tensor(features: Any) -> None:
    with pytest.raises(TypeError, match=r"features must be a torch\.Tensor, not "):
        select(features, 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_features_must_be_floating_point(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="features must be floating point, not "):
        select(torch.ones(6, 4).to(dtype), 2)


def test_features_must_be_dense() -> None:
    with pytest.raises(TypeError, match="features must be dense"):
        select(torch.eye(4).to_sparse(), 2)


@pytest.mark.parametrize("shape", [(), (6,), (1, 2, 6, 4)])
def test_features_must_have_two_or_three_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"features must be \[N, D\] or \[B, N, D\], not "):
        select(torch.ones(shape), 2)


@pytest.mark.parametrize("shape", [(0, 4), (6, 0), (0, 6, 4), (2, 0, 4), (2, 6, 0)])
def test_features_must_hold_something(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="hold nothing to select from"):
        select(torch.ones(shape), 2)
