"""SPARE: the weights, and the selection they lead to."""

from __future__ import annotations

import pytest
import torch

from sparevlm.budgets import Residual
from sparevlm.methods import SPARE, CDPruner
from sparevlm.methods.picking import along_rows, min_max
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


def greedy(rows, weights, k):
    """Pivots of rows in float64, one projection behind the other."""
    left, kept = rows.double() * weights.double()[:, None], []
    for _ in range(k):
        values = left.square().sum(1)
        values[kept] = -1
        kept.append(int((values >= values.max() * (1 - 1e-6)).nonzero()[0, 0]))  # ties by index
        unit = left[kept[-1]] / left[kept[-1]].norm()
        left = left - (left @ unit)[:, None] * unit
    return kept


@pytest.mark.parametrize("form", ["product", "power"])
@pytest.mark.parametrize("guidance", ["anti", "normal", "none"])
@pytest.mark.parametrize("winsorize", [None, 1.5])
@pytest.mark.parametrize("exponent", [0, 0.5, 1])
def test_all_settings_by_a_loop(exponent, winsorize, guidance, form):
    draw = torch.Generator().manual_seed(1)
    rows = torch.randn(70, 40, generator=draw) * torch.rand(70, 1, generator=draw)
    rows[:3] *= 10
    tokens = VisualTokens(
        rows, query=Query(torch.randn(70, 6, generator=draw), torch.randn(2, 6, generator=draw))
    )
    similar = tokens.query.similarity()
    similar = (similar - similar.min()) / (similar.max() - similar.min())
    against = {"anti": similar, "normal": 1 - similar, "none": torch.zeros(70)}[guidance]
    weights = 1 - 0.7 * against if form == "product" else (1 - against) ** 0.7
    lengths = rows.norm(dim=1)
    shorter = lengths if winsorize is None else lengths.clamp(max=1.5 * lengths.median())
    rows = rows / lengths[:, None] * shorter[:, None]
    expected = greedy(rows / shorter[:, None] ** exponent, weights, 20)
    method = SPARE(
        20, guidance=guidance, strength=0.7, form=form, exponent=exponent, winsorize=winsorize
    )
    assert method.reduce(tokens).order.tolist() == expected


def test_outliers_take_the_first_picks_unless_they_are_cut():
    draw = torch.Generator().manual_seed(2)
    rows = torch.randn(100, 50, generator=draw)
    rows[[11, 47, 80]] *= 10
    seen = VisualTokens(rows)
    assert set(SPARE(3).reduce(seen).indices.tolist()) == {11, 47, 80}
    assert not {11, 47, 80} <= set(SPARE(8, winsorize=1).reduce(seen).indices.tolist())


def test_zero_rows_are_no_outliers():
    rows = torch.zeros(20, 4)
    rows[7, 2] = 3
    for settings in ({"winsorize": 1}, {"exponent": 1}, {"exponent": 0.5, "winsorize": 2}):
        assert SPARE(1, **settings).reduce(VisualTokens(rows)).indices.tolist() == [7]
        assert len(SPARE(5, **settings).reduce(VisualTokens(rows * 0)).indices) == 5


def test_residual_budgets_take_every_setting(seen):
    found = SPARE(Residual(0.3), exponent=1, winsorize=2, form="power").reduce(seen)
    whole = SPARE(len(seen), exponent=1, winsorize=2, form="power").reduce(seen)
    assert torch.equal(found.order, whole.order[: len(found.order)])
    assert float(found.residual[-1]) <= 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exponent": 1.5}, "from 0 to 1"),
        ({"exponent": 0.5, "normalize": True}, "give one of the two"),
        ({"winsorize": 0.5}, "of at least 1, or None"),
        ({"strength": 2.0}, "from 0 to 1"),
        ({"strength": -1.0, "form": "power"}, "of at least 0"),
        ({"form": "sum"}, "form"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        SPARE(5, **settings)


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
    assert min_max(torch.tensor([[2.0, 4.0], [7.0, 7.0]])).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("lengths", [(5, 5), (5, 7), (5,), (), (5, None, 5), (None, 3)])
def test_a_function_along_rows(lengths):
    vectors = [None if n is None else torch.rand(n) for n in lengths]
    for vector, found in zip(vectors, along_rows(min_max, vectors), strict=True):
        assert (found is None) if vector is None else torch.equal(found, min_max(vector))


def test_nan_is_refused(seen):
    features = seen.features.clone()
    features[3, 4] = float("nan")
    with pytest.raises(ValueError, match="row 3"):
        SPARE(5).reduce(VisualTokens(features))
