"""Farthest-point traversal from rows, by the compiled loop and the other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.selection import (
    cosine_distances_to,
    euclidean_distances_to,
    max_min,
    max_min_each,
)

from .data import gaussian

KINDS = [cosine_distances_to, euclidean_distances_to]


def literally(distances, first, k, weights=None):
    """Picks [k] with all distances at hand; ties go to the lowest index."""
    value, picks = first.numpy().astype(float), []
    nearest = np.full(len(value), np.inf)
    for _ in range(k):
        picks.append(int(value.argmax()))
        nearest = np.minimum(nearest, distances(torch.tensor(picks[-1:])).numpy())
        value = nearest if weights is None else nearest * weights.numpy()
        value = np.where(np.isin(np.arange(len(value)), picks), -np.inf, value)
    return picks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n, d, k", [(1, 3, 1), (2, 1, 2), (90, 16, 30), (300, 64, 300)])
def test_is_what_a_loop_over_all_distances_picks(kind, dtype, n, d, k):
    rows = gaussian(n, d, seed=n, dtype=dtype)
    first = rows.norm(dim=1)
    distances = kind(rows)
    assert max_min(distances, k, first).tolist() == literally(distances, first, k)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 3), st.integers(0, 10**6))
def test_ties_go_to_the_lowest_index(n, d, seed):
    """Points of a small grid, many of them alike, whose distances are exact."""
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(0, 3, (n, d)).astype(np.float32))
    first, distances = torch.from_numpy(rng.integers(0, 2, n) / 1.0), euclidean_distances_to(rows)
    assert max_min(distances, n, first).tolist() == literally(distances, first, n)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_zero(kind):
    rows = gaussian(50, 6, seed=3, dtype=torch.float32)
    weights = torch.linspace(1, 2, 50)
    weights[::3] = 0
    distances = kind(rows)
    order = max_min(distances, 50, weights, weights)
    assert order.tolist() == literally(distances, weights, 50, weights)
    assert order[33:].tolist() == list(range(0, 50, 3))  # 17 that count for nothing come last


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_are_not_laid_out_in_order(kind):
    wide = gaussian(40, 24, seed=7, dtype=torch.float32)
    for rows in (wide[:, ::2], wide.T[:20].T, wide[::2]):
        first = rows.norm(dim=1)
        wanted = max_min(kind(rows.contiguous()), 9, first)
        assert torch.equal(max_min(kind(rows), 9, first), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_several_pictures_are_their_singles(kind):
    pictures = [gaussian(n, 8, seed=n, dtype=torch.float32) for n in (20, 31, 20, 5)]
    distances, firsts = [kind(x) for x in pictures], [x.norm(dim=1) for x in pictures]
    ks = [4, 31, 9, 7]
    found = max_min_each(distances, ks, firsts)
    for one, d, k, first in zip(found, distances, ks, firsts, strict=True):
        assert torch.equal(one, max_min(d, k, first))
