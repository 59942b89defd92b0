"""CDPruner against determinants, term by term."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparevlm.methods import CDPruner
from sparevlm.tokens import Query, VisualTokens


def by_determinants(rows, relevance, k):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    kept = []
    for _ in range(k):
        gains = [
            -np.inf if i in kept else np.linalg.slogdet(kernel[np.ix_([*kept, i], [*kept, i])])[1]
            for i in range(len(rows))
        ]
        kept.append(int(np.argmax(gains)))
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_greedy_map(seed):
    rng = np.random.default_rng(seed)
    rows, patches, texts = (rng.standard_normal(s) for s in ((24, 16), (24, 5), (2, 5)))
    cosine = (patches / np.linalg.norm(patches, axis=1, keepdims=True)) @ (
        texts / np.linalg.norm(texts, axis=1, keepdims=True)
    ).T
    against = -cosine.mean(1)
    relevance = (against - against.min() + 1e-6) / (against.max() - against.min())
    query = Query(torch.from_numpy(patches), torch.from_numpy(texts))
    found = CDPruner(8).reduce(VisualTokens(torch.from_numpy(rows), query=query))
    assert found.order.tolist() == by_determinants(rows, relevance, 8)


@pytest.mark.parametrize("source", ["clip", "llm"])
def test_the_sign_of_the_similarity(source):
    """Hand-made: of unlike tokens, that which is least alike comes first, or most alike."""
    patches = torch.tensor([[1.0, 3.0], [1.0, 0.0], [0.0, 1.0]])  # cosines .32, 1 and 0
    query = Query(patches, torch.tensor([[1.0, 0.0]]), source=source)
    tokens = VisualTokens(torch.eye(3), query=query)
    for sign, first in (("minus", 2), ("plus", 1), ("auto", 2 if source == "clip" else 1)):
        found = CDPruner(3, sign=sign).reduce(tokens)
        assert found.order[0] == first
        assert found.scores.tolist() == pytest.approx([0.3162, 1, 0], abs=1e-4)
    with pytest.raises(ValueError, match='sign must be one of "auto", "minus", "plus"'):
        CDPruner(3, sign="-")


def test_without_a_question():
    rows = np.random.default_rng(0).standard_normal((20, 12))
    found = CDPruner(6).reduce(VisualTokens(torch.from_numpy(rows)))
    # All have length 1: the first pick is a tie, and the lowest index has it.
    assert found.order[0] == 0
    assert set(found.order.tolist()) == set(by_determinants(rows, np.ones(20), 6))


def test_length_does_not_matter():
    rows = torch.randn(20, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = rows * torch.linspace(0.1, 9, 20, dtype=torch.float64)[:, None]
    found = [CDPruner(6).reduce(VisualTokens(x)).order for x in (rows, scaled)]
    assert found[0].equal(found[1])
