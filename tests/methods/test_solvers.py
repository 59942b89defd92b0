"""The column subset solvers against slow, literal ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from sparevlm.methods import LeverageScores, StrongRRQR, TwoStageCSS, VolumeSampling
from sparevlm.selection import draw, leverage_scores, strong_rrqr, volume_sample
from sparevlm.tokens import VisualTokens

shapes = st.tuples(st.integers(3, 16), st.integers(6, 20), st.integers(0, 10**6))


def volume(rows, kept):
    return np.sqrt(max(np.linalg.det(rows[kept] @ rows[kept].T), 0))


def exchanged_by_volume(rows, k, factor):
    """Pivoted QR, then the best exchange by explicit volumes, again and again."""
    kept = scipy.linalg.qr(rows.T, pivoting=True, mode="r")[1][:k].tolist()
    while True:
        best, pair = 0.0, None
        now = volume(rows, kept)
        for i in range(k):
            for j in range(len(rows)):
                if j not in kept:
                    ratio = volume(rows, [*kept[:i], j, *kept[i + 1 :]]) / now
                    if ratio > best * (1 + 1e-9):
                        best, pair = ratio, (i, j)
        if pair is None or best <= factor:
            return kept
        kept[pair[0]] = pair[1]


@settings(max_examples=40, deadline=None)
@given(shapes, st.sampled_from([1.05, 1.2, 2.0]))
def test_strong_rrqr(shape, factor):
    n, dim, seed = shape
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dim)) * rng.uniform(0.3, 3, (n, 1))
    k = 1 + seed % min(n - 1, dim)
    found = StrongRRQR(k, factor=factor).reduce(VisualTokens(torch.from_numpy(rows)))
    assert found.order.tolist() == exchanged_by_volume(rows, k, factor)


def kahan(n):
    """Kahan's matrix as rows: pivoted QR makes no exchange on it and misses its small volume."""
    c, s = 0.285, np.sqrt(1 - 0.285**2)
    upper = np.diag(s ** np.arange(n)) @ (np.eye(n) - c * np.triu(np.ones((n, n)), 1))
    return torch.from_numpy(upper.T * (1 + 1e-8 * np.arange(n, 0, -1))[:, None])


def test_exchanges_help_where_pivoting_fails():
    rows = kahan(40)
    plain, strong = list(range(39)), strong_rrqr(rows, 39, 1.1).tolist()
    assert volume(rows.numpy(), strong) > 2 * volume(rows.numpy(), plain)


def test_strong_rrqr_of_low_rank():
    rows = torch.randn(20, 3, dtype=torch.float64) @ torch.randn(3, 30, dtype=torch.float64)
    assert len(set(strong_rrqr(rows, 8).tolist())) == 8


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_leverage_scores(shape):
    n, dim, seed = shape
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    rank = 1 + seed % min(n, dim)
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    scores, _, outside = leverage_scores(torch.from_numpy(rows), rank)
    np.testing.assert_allclose(scores.numpy(), (u[:, :rank] ** 2).sum(1), atol=1e-8)
    rest = ((u[:, rank:] * s[rank:]) ** 2).sum(1)
    if rest.sum() > 1e-6:
        np.testing.assert_allclose(outside.numpy(), rest / rest.sum(), atol=1e-7)
    found = LeverageScores(rank, seed=seed).reduce(VisualTokens(torch.from_numpy(rows)))
    uniform = torch.rand(
        n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).numpy()
    times = -np.log(1 - uniform) / (u[:, :rank] ** 2).sum(1)
    assert found.order.tolist() == np.argsort(times)[:rank].tolist()


def test_draws_follow_the_weights():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([1.0, 2.0, 0.0, 5.0])
    seen = np.zeros((4, 4))
    for _ in range(4000):
        first, second = draw(weights, 2, generator).tolist()
        seen[first, second] += 1
    pairs = [(i, j) for i in (0, 1, 3) for j in (0, 1, 3) if i != j]
    w = weights.double().numpy()
    expected = [4000 * w[i] / 8 * w[j] / (8 - w[i]) for i, j in pairs]
    assert seen[2].sum() == seen[:, 2].sum() == 0
    assert chisquare([seen[pair] for pair in pairs], expected).pvalue > 1e-3
    assert draw(weights, 4, generator)[3] == 2


@pytest.mark.parametrize("k", [1, 2, 3])
def test_volume_sampling(k):
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    sets = list(itertools.combinations(range(6), k))
    squares = np.array([volume(rows.numpy(), list(kept)) ** 2 for kept in sets])
    counts = dict.fromkeys(sets, 0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        counts[tuple(sorted(volume_sample(rows, k, generator).tolist()))] += 1
    expected = 4000 * squares / squares.sum()
    assert chisquare(list(counts.values()), expected).pvalue > 1e-3


def test_volume_sampling_never_takes_twins():
    rows = torch.eye(6, dtype=torch.float64).repeat(2, 1)
    for seed in range(50):
        found = VolumeSampling(6, seed=seed).reduce(VisualTokens(rows)).indices
        assert len((found % 6).unique()) == 6
    assert len(VolumeSampling(9).reduce(VisualTokens(rows)).indices.unique()) == 9


@settings(max_examples=30, deadline=None)
@given(st.integers(30, 60), st.integers(0, 10**6))
def test_two_stage(n, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 12)) * rng.uniform(0.2, 2, 12)
    k = 1 + seed % 10
    u, s, _ = np.linalg.svd(rows, full_matrices=False)
    inside, rest = (u[:, :k] ** 2).sum(1), ((u[:, k:] * s[k:]) ** 2).sum(1)
    chances = (inside / inside.sum() + rest / rest.sum()) / 2
    kept = np.minimum(1, max(2 * k, np.ceil(k * np.log(k))) * chances)
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn = [i for i in range(n) if uniform[i] < kept[i]]
    for i in np.argsort(-chances):
        if len(drawn) < k and i not in drawn:
            drawn.append(int(i))
    drawn = np.sort(drawn)
    scaled = u[drawn, :k] / np.sqrt(kept[drawn])[:, None]
    pivots = scipy.linalg.qr(scaled.T, pivoting=True, mode="r")[1][:k]
    found = TwoStageCSS(k, seed=seed).reduce(VisualTokens(torch.from_numpy(rows)))
    assert found.order.tolist() == drawn[pivots].tolist()


@pytest.mark.parametrize("factor", [0.9, "2", None, True, float("nan")])
def test_bad_factor(factor):
    with pytest.raises(ValueError, match="a number of at least 1"):
        StrongRRQR(5, factor=factor)
