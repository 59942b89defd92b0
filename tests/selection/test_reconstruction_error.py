"""The reconstruction error against least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from sparevlm.selection import reconstruction_curve, reconstruction_error

from .data import gaussian, low_rank, seeds, sizes, uniform
from .reference import least_squares_error


@given(n=sizes, d=sizes, k=sizes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_is_the_least_squares_error(n: int, d: int, k: int, seed: int) -> None:
    x, w = gaussian(n, d, seed=seed), uniform(n, seed=seed)
    kept = np.random.default_rng(seed).integers(n, size=k)
    for weights in (None, w):
        found = float(reconstruction_error(x, torch.from_numpy(kept), weights))
        assert found == pytest.approx(least_squares_error(x, kept.tolist(), weights), abs=1e-12)


def test_no_token_explains_nothing() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    assert float(reconstruction_error(gaussian(5, 4), empty)) == 1


def test_all_tokens_explain_everything() -> None:
    assert float(reconstruction_error(gaussian(5, 4), torch.arange(5))) < 1e-28


def test_order_and_duplicates_do_not_matter() -> None:
    x = gaussian(9, 12, seed=1)
    once = float(reconstruction_error(x, torch.tensor([2, 5, 7])))
    again = float(reconstruction_error(x, torch.tensor([7, 2, 5, 7, 7])))
    assert again == pytest.approx(once, rel=1e-12)


def test_dependent_tokens_do_no_harm() -> None:
    x = low_rank(30, 20, 3, seed=2)
    assert float(reconstruction_error(x, torch.arange(10))) < 1e-28
    x[10:] += gaussian(20, 20, seed=3)
    expected = least_squares_error(x, [0, 1, 2])
    assert float(reconstruction_error(x, torch.arange(10))) == pytest.approx(expected, rel=1e-9)


def test_small_rows_are_directions_too() -> None:
    x = torch.tensor([[1e-100, 0], [0, 1], [1, 1]], dtype=torch.float64)
    assert float(reconstruction_error(x, torch.tensor([0, 1]))) < 1e-28
    assert float(reconstruction_error(x, torch.tensor([0]))) == pytest.approx(2 / 3)


def test_zero_rows_explain_nothing() -> None:
    x = torch.tensor([[0, 0], [0, 1], [1, 1]], dtype=torch.float64)
    assert float(reconstruction_error(x, torch.tensor([0, 0]))) == 1


def test_zero_energy_leaves_nothing() -> None:
    assert float(reconstruction_error(torch.zeros(4, 3), torch.tensor([1]))) == 0
    assert float(reconstruction_error(torch.ones(4, 3), torch.tensor([1]), torch.zeros(4))) == 0


def test_large_weight_on_a_zero_row_hides_no_other() -> None:
    x = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    w = torch.tensor([1, 1e-200, 1e-200], dtype=torch.float64)
    assert float(reconstruction_error(x, torch.tensor([2]), w)) == pytest.approx(0.2)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_changes_nothing(scale: float) -> None:
    x, kept = gaussian(9, 7, seed=4), torch.tensor([1, 2])
    expected = float(reconstruction_error(x, kept))
    assert float(reconstruction_error(x * scale, kept)) == pytest.approx(expected, rel=1e-12)


def test_batch_equals_singles() -> None:
    x, w = gaussian(3, 9, 7, seed=5), uniform(3, 9, seed=5)
    kept = torch.tensor([[0, 1], [5, 3], [8, 8]])
    found = reconstruction_error(x, kept, w)
    assert found.tolist() == [float(reconstruction_error(x[b], kept[b], w[b])) for b in range(3)]
    assert torch.equal(
        reconstruction_error(x, kept, w[0]), reconstruction_error(x, kept, w[0].expand(3, 9))
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_is_worked_out_in_fp64(dtype: torch.dtype) -> None:
    x, kept = gaussian(9, 7, seed=6).to(dtype), torch.tensor([4, 1, 0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = reconstruction_error(x, kept)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(least_squares_error(x.double(), [4, 1, 0]), rel=1e-10)


def test_gradients_are_cut() -> None:
    x = gaussian(5, 4).requires_grad_()
    assert not reconstruction_error(x, torch.tensor([1])).requires_grad


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_any_integer_indexes(dtype: torch.dtype) -> None:
    x, kept = gaussian(5, 4), torch.tensor([1, 3])
    assert reconstruction_error(x, kept.to(dtype)) == reconstruction_error(x, kept)


@pytest.mark.parametrize("indices", [[1, 2], np.array([1]), None])
def test_indices_must_be_a_tensor(indices: Any) -> None:
    with pytest.raises(TypeError, match=r"indices must be a torch\.Tensor, not "):
        reconstruction_error(gaussian(5, 4), indices)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.complex64])
def test_indices_must_be_integers(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="indices must be integers, not "):
        reconstruction_error(gaussian(5, 4), torch.ones(5).to(dtype))


@pytest.mark.parametrize("shape", [(), (1, 2), (2, 2)])
def test_indices_must_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit features of shape"):
        reconstruction_error(gaussian(5, 4), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (2, 2, 1)])
def test_indices_must_fit_a_batch(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit features of shape"):
        reconstruction_error(gaussian(2, 5, 4), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("bad", [-1, 5])
def test_indices_must_be_tokens(bad: int) -> None:
    with pytest.raises(ValueError, match=r"indices must lie in \[0, 5\)"):
        reconstruction_error(gaussian(5, 4), torch.tensor([0, bad]))


def test_bad_weights() -> None:
    with pytest.raises(ValueError, match="one entry per token"):
        reconstruction_error(gaussian(5, 4), torch.tensor([0]), torch.ones(4))
    with pytest.raises(ValueError, match="not negative"):
        reconstruction_error(gaussian(5, 4), torch.tensor([0]), -torch.ones(5))


def test_bad_row_is_named() -> None:
    x = gaussian(2, 5, 4)
    x[1, 3, 0] = float("nan")
    with pytest.raises(ValueError, match="first in image 1, row 3"):
        reconstruction_error(x, torch.zeros(2, 1, dtype=torch.int64))


@given(n=sizes, d=sizes, seed=seeds)
@settings(deadline=None, max_examples=40)
def test_a_curve_is_the_error_of_every_beginning(n: int, d: int, seed: int) -> None:
    """Twins, zero rows and more tokens than dimensions included."""
    x, w = gaussian(n, d, seed=seed), uniform(n, seed=seed)
    x[n // 2], x[-1] = x[0], 0
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    for weights in (None, w):
        curve = reconstruction_curve(x, order, weights)
        expected = [float(reconstruction_error(x, order[:j], weights)) for j in range(n + 1)]
        assert curve.tolist() == pytest.approx(expected, abs=1e-12)


def test_a_curve_of_nothing() -> None:
    assert reconstruction_curve(torch.zeros(3, 2), torch.tensor([0, 2])).tolist() == [0, 0, 0]


def test_a_curve_is_of_one_image() -> None:
    with pytest.raises(ValueError, match=r"pass one image \[N, D\]"):
        reconstruction_curve(torch.ones(2, 3, 4), torch.zeros(2, 1, dtype=torch.int64))
