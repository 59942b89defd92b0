"""DART against its words, one token at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.methods import DART
from sparevlm.tokens import VisualTokens
from tests.methods.scene import by_size, cosine


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 9), st.integers(0, 10**6))
def test_dart(n, dim, pivots, seed):
    rows = np.random.default_rng(seed).standard_normal((n, dim + 1))
    k = 1 + seed % n
    chosen = by_size([sum(abs(value) for value in row) for row in rows])[: min(pivots, k)]
    kept = list(chosen)
    for place, pivot in enumerate(chosen):
        share, left_over = divmod(k - len(chosen), len(chosen))
        for _ in range(share + (place < left_over)):
            free = [i for i in range(n) if i not in kept]
            kept.append(min(free, key=lambda i: (cosine(rows[pivot], rows[i]), i)))
    found = DART(k, pivots=pivots).reduce(VisualTokens(torch.from_numpy(rows)))
    assert found.order.tolist() == kept


def test_twins_of_a_pivot_come_last():
    rows = torch.eye(8).repeat(2, 1) * torch.tensor([9.0] * 8 + [1.0] * 8)[:, None]
    found = DART(8, pivots=1).reduce(VisualTokens(rows))
    assert 8 not in found.indices  # the twin of token 0, the pivot


@pytest.mark.parametrize("pivots", [0, -1, 2.0, True, None])
def test_bad_pivots(pivots):
    with pytest.raises(ValueError, match="pivots must be a positive integer"):
        DART(5, pivots=pivots)
