"""AgilePruner against a slow, literal reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.methods import AgilePruner, FasterVLM
from sparevlm.methods.agilepruner import effective_rank
from tests.methods.scene import by_size, cosine, everything, numbers


def rank_of(rows) -> float:
    values = np.linalg.svd(rows, compute_uv=False)
    shares = [value / values.sum() for value in values if value > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(3, 40),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from([0.01, 0.05, 0.17, 1.0]),
    st.sampled_from([0.0, 0.2, 0.5, 0.9, 2.0]),
)
def test_by_the_rule(n, seed, class_token, average, most):
    tokens = everything(n, seed=seed, class_token=class_token)
    _, v, a, _, _ = numbers(tokens)
    k = 1 + seed % (n - 1)
    ranked = by_size(a.mean(0))
    ratio = rank_of(v) / min(v.shape) / average
    kept, removed = [], []
    left = list(ranked)
    while len(kept) < k:
        i = (left or sorted(removed, key=ranked.index))[0]
        kept.append(i)
        left, removed = [j for j in left if j != i], [j for j in removed if j != i]
        tau = min(0.01 * (ranked.index(i) + 1) * ratio, most)
        near = [j for j in left if 1 - cosine(v[i], v[j]) < tau]
        removed += near
        left = [j for j in left if j not in near]
    found = AgilePruner(k, mean_rank=average, most=most).reduce(tokens)
    assert found.order.tolist() == kept


def test_effective_rank():
    assert float(effective_rank(torch.eye(7, 9))) == pytest.approx(7)
    assert float(effective_rank(torch.ones(7, 9))) == pytest.approx(1, abs=1e-4)
    assert float(effective_rank(torch.zeros(7, 9))) == pytest.approx(1)
    rows = torch.randn(30, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert float(effective_rank(rows)) == pytest.approx(rank_of(rows.numpy()))


def test_near_twins_go_and_attention_alone_keeps_them():
    tokens = everything(60, seed=3)
    states = tokens.projector.states
    twins = torch.cat([states[:30], states[:30] + 0.1])
    tokens = replace(tokens, projector=replace(tokens.projector, states=twins))
    order = AgilePruner(30, mean_rank=0.01, most=0.05).reduce(tokens).order
    assert len({i % 30 for i in order.tolist()}) == 30
    attention = FasterVLM(30).reduce(tokens).order
    assert len({i % 30 for i in attention.tolist()}) < 25
    assert AgilePruner(30, most=0.0).reduce(tokens).order.equal(attention)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"mean_rank": 0.0}, "above 0 and at most 1"), ({"most": 2.1}, "from 0 to 2")],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(ValueError, match=words):
        AgilePruner(9, **settings)
