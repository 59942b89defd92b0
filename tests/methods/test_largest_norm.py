"""LargestNorm and GreedyCSS: what they add to the functions beneath."""

from __future__ import annotations

import pytest
import torch

from sparevlm.methods import GreedyCSS, LargestNorm
from sparevlm.selection import greedy_css
from sparevlm.tokens import VisualTokens


def test_largest_norm():
    rows = torch.tensor([[3.0], [-5.0], [3.0], [4.0]])
    found = LargestNorm(3).reduce(VisualTokens(rows))
    assert found.order.tolist() == [1, 3, 0]
    assert found.scores.tolist() == [3, 5, 3, 4]
    rows[2] = float("inf")
    with pytest.raises(ValueError, match="row 2"):
        LargestNorm(3).reduce(VisualTokens(rows))


def test_greedy_css_skips_separators():
    rows = torch.randn(12, 9, generator=torch.Generator().manual_seed(0))
    candidates = torch.arange(12) % 4 != 3
    found = GreedyCSS(4).reduce(VisualTokens(rows, candidates=candidates))
    expected = greedy_css(rows[candidates], 4)
    assert found.order.tolist() == candidates.nonzero()[:, 0][expected.order].tolist()
    assert torch.equal(found.residual, expected.residual)
