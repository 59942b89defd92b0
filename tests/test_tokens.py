"""Budgets and the contract of reductions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparevlm.budgets import Residual, budget_tokens
from sparevlm.tokens import Reduction, VisualTokens, check_reduction


@pytest.mark.parametrize(
    ("keep", "available", "wanted"),
    [
        (1, 196, 1),
        (64, 10, 10),
        (1.0, 196, 196),
        (0.0625, 196, 12),
        (0.001, 196, 1),
        (np.int64(7), 196, 7),
        (np.float32(0.5), 196, 98),
    ],
)
def test_budgets(keep, available, wanted):
    assert budget_tokens(keep, available) == wanted


@pytest.mark.parametrize("error", [0, 0.0, 1, -0.1, float("nan"), "0.1", None, True])
def test_bad_errors(error):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Residual(error)


@pytest.mark.parametrize(
    "bounds",
    [{"minimum": 0}, {"minimum": 1.5}, {"maximum": 0}, {"minimum": None}, {"minimum": True}],
)
def test_bad_bounds(bounds):
    with pytest.raises(ValueError, match="positive integer"):
        Residual(0.1, **bounds)
    with pytest.raises(ValueError, match="must not be below"):
        Residual(0.1, minimum=5, maximum=4)


def test_candidates():
    features = torch.zeros(4, 2)
    assert VisualTokens(features).candidate_indices().tolist() == [0, 1, 2, 3]
    some = torch.tensor([True, False, True, True])
    assert VisualTokens(features, candidates=some).candidate_indices().tolist() == [0, 2, 3]
    assert len(VisualTokens(features)) == 4


def test_a_kept_separator_is_noticed():
    some = torch.tensor([True, False, True, True])
    tokens = VisualTokens(torch.zeros(4, 2), candidates=some)
    check_reduction(Reduction(torch.tensor([0, 2])), tokens, "Mine")
    with pytest.raises(ValueError, match=r"Mine\.reduce kept a separator"):
        check_reduction(Reduction(torch.tensor([0, 1])), tokens, "Mine")
    check_reduction(Reduction(torch.tensor([], dtype=torch.int64)), tokens, "Mine")
