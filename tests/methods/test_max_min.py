"""DivPrune and k-center against literal references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.methods import DivPrune, KCenter
from sparevlm.selection import max_min
from sparevlm.tokens import VisualTokens

shapes = st.tuples(st.integers(2, 20), st.integers(2, 8), st.integers(0, 10**6))


def farthest_points(distance, first, k):
    kept = [first]
    while len(kept) < k:
        best, far = None, -np.inf
        for i in range(len(distance)):
            if i not in kept and min(distance[i][j] for j in kept) > far:
                best, far = i, min(distance[i][j] for j in kept)
        kept.append(best)
    return kept


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_divprune(shape):
    n, dim, seed = shape
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    distance = [[1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for b in rows] for a in rows]
    alone = [min(d for j, d in enumerate(row) if j != i) for i, row in enumerate(distance)]
    # Two tokens that are each other's nearest tie, up to rounding: the lower index is first.
    first = next(i for i in range(n) if alone[i] >= max(alone) - 1e-12)
    k = 1 + seed % n
    found = DivPrune(k).reduce(VisualTokens(torch.from_numpy(rows)))
    assert found.order.tolist() == farthest_points(distance, first, k)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_k_center(shape):
    n, dim, seed = shape
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    distance = [[np.linalg.norm(a - b) for b in rows] for a in rows]
    first = int(np.argmax(np.linalg.norm(rows, axis=1)))
    k = 1 + seed % n
    found = KCenter(k).reduce(VisualTokens(torch.from_numpy(rows)))
    assert found.order.tolist() == farthest_points(distance, first, k)


def test_k_center_is_within_twice_the_best_radius():
    rows = torch.randn(12, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = torch.cdist(rows, rows)
    kept = KCenter(3).reduce(VisualTokens(rows)).indices
    radius = float(distance[kept].min(0).values.max())
    best = min(
        float(distance[[a, b, c]].min(0).values.max())
        for a in range(12)
        for b in range(a)
        for c in range(b)
    )
    assert radius <= 2 * best


@pytest.mark.parametrize("method", [DivPrune, KCenter])
def test_twins_and_ties_go_to_the_lowest_index(method):
    rows = torch.eye(4).repeat(2, 1)
    assert method(4).reduce(VisualTokens(rows)).order.tolist() == [0, 1, 2, 3]
    assert method(8).reduce(VisualTokens(rows)).order.tolist() == list(range(8))


def test_zero_rows():
    rows = torch.zeros(3, 4)
    for method in (DivPrune, KCenter):
        assert method(2).reduce(VisualTokens(rows)).indices.tolist() == [0, 1]


@pytest.mark.parametrize("method", [DivPrune, KCenter])
def test_nan_is_refused(method):
    rows = torch.randn(5, 3)
    rows[2, 1] = float("nan")
    with pytest.raises(ValueError, match="row 2"):
        method(2).reduce(VisualTokens(rows))


def test_bad_k():
    with pytest.raises(ValueError, match="positive integer"):
        max_min(torch.zeros(3, 3), 0, torch.ones(3))
