"""Budgets and the contract of reductions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparevlm.budgets import Residual, budget_tokens
from sparevlm.tokens import Query, Reduction, VisualTokens, check_reduction, similarities


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
    assert VisualTokens(features, candidates=some).candidate_count() == 3
    assert len(VisualTokens(features)) == VisualTokens(features).candidate_count() == 4


def test_similarities_are_means_of_cosines():
    """Of pictures that share their texts or do not; a patch of length 0 is like nothing."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 6, generator=draw).half() for n in (4, 9, 4)]
    rows[1][3] = 0
    texts = [torch.randn(m, 6, generator=draw) for m in (1, 5)]
    queries = [Query(x, texts[i]) for x, i in zip(rows, (1, 0, 1), strict=True)]
    for query, found in zip(queries, similarities(queries), strict=True):
        patches, words = query.patches.double()[:, None], query.texts.double()
        wanted = torch.nn.functional.cosine_similarity(patches, words, dim=-1).mean(1)
        torch.testing.assert_close(found, wanted.float(), rtol=1e-5, atol=1e-6)
        assert torch.equal(found, query.similarity())


def test_a_kept_separator_is_noticed():
    some = torch.tensor([True, False, True, True])
    tokens = VisualTokens(torch.zeros(4, 2), candidates=some)
    check_reduction(Reduction(torch.tensor([0, 2])), tokens, "Mine")
    with pytest.raises(ValueError, match=r"Mine\.reduce kept a separator"):
        check_reduction(Reduction(torch.tensor([0, 1])), tokens, "Mine")
    check_reduction(Reduction(torch.tensor([], dtype=torch.int64)), tokens, "Mine")
