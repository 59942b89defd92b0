"""SPARE: the weights, and the selection they lead to."""

from __future__ import annotations

import pytest
import torch

from sparevlm.budgets import Residual
from sparevlm.methods import SPARE, CDPruner
from sparevlm.methods.spare import min_max
from sparevlm.selection import select
from sparevlm.tokens import Query, VisualTokens


@pytest.fixture
def seen():
    generator = torch.Generator().manual_seed(0)
    return VisualTokens(
        torch.randn(50, 30, generator=generator),
        query=Query(
            torch.randn(50, 6, generator=generator), torch.randn(1, 6, generator=generator)
        ),
    )


def by_hand(features, weights, k):
    """Explicit residual rows, one projection a step."""
    rows, kept = features.double().clone(), []
    for _ in range(k):
        gain = weights.double() ** 2 * rows.square().sum(1)
        gain[kept] = -1
        j = int(gain.argmax())
        kept.append(j)
        q = rows[j] / rows[j].norm()
        rows = rows - (rows @ q)[:, None] * q
    left = (weights.double() ** 2 * rows.square().sum(1)).sum()
    return kept, float(left / (weights.double() ** 2 * features.double().square().sum(1)).sum())


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("guidance", ["anti", "normal", "none"])
def test_weighted_selection(seen, guidance, strength):
    s = min_max(seen.query.similarity())
    weights = {"anti": 1 - strength * s, "normal": 1 - strength * (1 - s), "none": torch.ones(50)}
    found = SPARE(8, guidance=guidance, strength=strength).reduce(seen)
    order, residual = by_hand(seen.features, weights[guidance], 8)
    assert found.order.tolist() == order
    assert float(found.residual[-1]) == pytest.approx(residual, abs=1e-5)
    if guidance == "none" or strength == 0:
        assert found.weights is None
    else:
        torch.testing.assert_close(found.weights, weights[guidance])


def test_no_question_is_no_guidance(seen):
    bare = VisualTokens(seen.features)
    expected = select(seen.features, 8).order
    assert SPARE(8).reduce(bare).order.equal(expected)
    assert not SPARE(8, strength=1.0).reduce(seen).order.equal(expected)


def test_features_are_not_normalised():
    features = torch.eye(6)
    features[4] *= 5
    assert SPARE(1).reduce(VisualTokens(features)).indices.tolist() == [4]


@pytest.mark.parametrize("seed", range(20))
def test_normalised_with_full_guidance_is_cdpruner(seed):
    generator = torch.Generator().manual_seed(seed)
    tokens = VisualTokens(
        torch.randn(80, 40, generator=generator) * torch.rand(80, 1, generator=generator),
        query=Query(
            torch.randn(80, 6, generator=generator), torch.randn(2, 6, generator=generator)
        ),
    )
    ours = SPARE(20, guidance="anti", strength=1.0, normalize=True).reduce(tokens)
    assert ours.order.equal(CDPruner(20).reduce(tokens).order)
    assert not ours.order.equal(SPARE(20, guidance="anti", strength=1.0).reduce(tokens).order)


def test_bad_normalize():
    with pytest.raises(ValueError, match="must be True or False"):
        SPARE(5, normalize="yes")


def test_residual_budgets(seen):
    whole = SPARE(30, guidance="none").reduce(seen).residual
    found = SPARE(Residual(0.4), guidance="none").reduce(seen)
    wanted = int((whole > 0.4).sum())
    assert len(found.indices) == wanted
    assert len(SPARE(Residual(0.4, minimum=wanted + 3), guidance="none").reduce(seen).indices) == (
        wanted + 3
    )
    assert len(SPARE(Residual(0.4, maximum=2), guidance="none").reduce(seen).indices) == 2
    assert len(SPARE(Residual(0.999, minimum=500)).reduce(seen).indices) == 50


def test_separators_are_not_reconstructed(seen):
    candidates = torch.arange(50) % 5 != 4
    found = SPARE(8).reduce(VisualTokens(seen.features, None, candidates, seen.query))
    s = min_max(seen.query.similarity()[candidates])
    order, _ = by_hand(seen.features[candidates], 1 - SPARE(8).strength * s, 8)
    assert found.order.tolist() == candidates.nonzero()[:, 0][order].tolist()


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "1", None, True])
def test_bad_strength(value):
    with pytest.raises(ValueError, match="a number from 0 to 1"):
        SPARE(5, strength=value)


def test_bad_guidance():
    with pytest.raises(ValueError, match='"anti", "normal", "none"'):
        SPARE(5, guidance="against")


def test_min_max():
    assert min_max(torch.tensor([2.0, 4.0, 3.0])).tolist() == [0, 1, 0.5]
    assert min_max(torch.full((3,), 7.0)).tolist() == [0, 0, 0]


def test_nan_is_refused(seen):
    features = seen.features.clone()
    features[3, 4] = float("nan")
    with pytest.raises(ValueError, match="row 3"):
        SPARE(5).reduce(VisualTokens(features))
