"""The bound that no subset beats, against singular values."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from sparevlm.selection import reconstruction_error, svd_bound

from .data import gaussian, low_rank, seeds, sizes, uniform


@given(n=sizes, d=sizes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_is_the_tail_of_the_spectrum(n: int, d: int, seed: int) -> None:
    x, w = gaussian(n, d, seed=seed), uniform(n, seed=seed)
    squares = np.linalg.svd(w.numpy()[:, None] * x.numpy(), compute_uv=False) ** 2
    expected = [squares[t:].sum() / squares.sum() for t in range(n + 1)]
    assert np.allclose(svd_bound(x, weights=w), expected, rtol=1e-9, atol=1e-14)


def test_every_rank_at_once() -> None:
    x = gaussian(9, 5, seed=1)
    bound = svd_bound(x)
    assert bound.shape == (10,)
    assert bound.dtype == torch.float64
    assert bound[0] == 1
    assert bound[5:].tolist() == [0] * 5
    assert bool((bound.diff() <= 0).all())
    assert [float(svd_bound(x, k)) for k in range(1, 10)] == bound[1:].tolist()


def test_k_beyond_all_tokens() -> None:
    assert float(svd_bound(gaussian(4, 9), 100)) == 0


def test_no_subset_beats_it() -> None:
    x, w = gaussian(8, 6, seed=2), uniform(8, seed=2)
    for k in (1, 2, 3):
        errors = [
            float(reconstruction_error(x, torch.tensor(kept), w))
            for kept in combinations(range(8), k)
        ]
        assert min(errors) >= float(svd_bound(x, k, w))


def test_low_rank_leaves_nothing() -> None:
    bound = svd_bound(low_rank(20, 12, 3, seed=3))
    assert bound[2] > 1e-3
    assert bound[3:].max() < 1e-28


def test_zero_energy() -> None:
    assert svd_bound(torch.zeros(3, 2)).tolist() == [0] * 4
    assert svd_bound(torch.ones(3, 2), weights=torch.zeros(3)).tolist() == [0] * 4


def test_large_weight_on_a_zero_row_hides_no_other() -> None:
    x = torch.tensor([[0, 0], [1, 0], [0, 2]], dtype=torch.float64)
    w = torch.tensor([1, 1e-200, 1e-200], dtype=torch.float64)
    assert svd_bound(x, weights=w).tolist() == pytest.approx([1, 0.2, 0, 0])


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scale_changes_nothing(scale: float) -> None:
    x = gaussian(9, 7, seed=4)
    assert torch.allclose(svd_bound(x * scale), svd_bound(x), rtol=1e-12, atol=1e-15)


def test_batch_equals_singles() -> None:
    x, w = gaussian(3, 9, 7, seed=5), uniform(9, seed=5)
    assert torch.equal(
        svd_bound(x, weights=w), torch.stack([svd_bound(image, weights=w) for image in x])
    )
    assert svd_bound(x, 4).shape == (3,)


@pytest.mark.parametrize("k", [0, -1, True, 1.5, float("nan"), "2"])
def test_k_must_be_a_positive_integer(k: Any) -> None:
    with pytest.raises(ValueError, match="k must be a positive integer"):
        svd_bound(gaussian(5, 4), k)


def test_bad_row_is_named() -> None:
    x = gaussian(5, 4)
    x[2, 0] = float("inf")
    with pytest.raises(ValueError, match="first in row 2"):
        svd_bound(x)
