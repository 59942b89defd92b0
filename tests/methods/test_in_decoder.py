"""What methods inside the decoder choose, literally, from given hidden states and attention."""

from __future__ import annotations

import math

import pytest
import torch

from sparevlm.methods import (
    DARTDecoder,
    FastV,
    PyramidDrop,
    SPAREDecoder,
    SparseVLM,
    get_method,
    list_methods,
)
from sparevlm.methods.in_decoder import Change, LayerTokens, averaged
from sparevlm.methods.sparsevlm import clustered, divided, raters
from sparevlm.selection import select


def tokens(n=60, words=9, d=16, seed=0) -> LayerTokens:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def attention() -> torch.Tensor:
        paid = normal(words, n).softmax(-1) * normal(words, 1).sigmoid()  # the rest goes to words
        return paid.float()

    paid, coming = attention(), attention()
    given = normal(n, d), normal(words, d)
    more = torch.Generator().manual_seed(seed + 1)
    cosines = torch.randn(4, n + words, generator=more).tanh()
    ratios = torch.randn(4, n, generator=more).exp()
    changes = tuple(
        Change(
            at // 2, ("attention", "feed-forward")[at % 2], ratios[at], cosines[at, :n], cosines[at]
        )
        for at in range(4)
    )
    return LayerTokens(
        layer=2, features=normal(n, d), indices=torch.arange(n), text=normal(words, d),
        behind=torch.arange(words) >= 2,
        keys=normal(n, d), text_keys=normal(words, d), attention=lambda rows: paid[rows],
        next_attention=lambda rows: coming[rows], embeddings=lambda: given,
        received=lambda: paid.mean(0),
        norm=lambda x: x / x.square().mean(-1, keepdim=True).sqrt(),
        changes=lambda: changes,
    )  # fmt: skip


@pytest.mark.parametrize("method", [FastV(keep=12), PyramidDrop(keep=12)])
def test_attention_of_the_last_word(method) -> None:
    given = tokens()
    asked = given.attention if isinstance(method, FastV) else given.next_attention
    paid = asked(torch.tensor([8]))[0]
    expected = sorted(range(60), key=lambda i: -float(paid[i]))[:12]
    found = method.choose(given, 12)
    assert found.order.tolist() == expected
    assert found.indices.tolist() == sorted(expected)


def test_attention_of_all() -> None:
    given = tokens()
    found = FastV(keep=12, asking="all").choose(given, 12)
    scores = given.received().tolist()
    assert found.order.tolist() == sorted(range(60), key=lambda i: -scores[i])[:12]
    assert found.order.tolist() != FastV(keep=12).choose(given, 12).order.tolist()
    with pytest.raises(ValueError, match="asking"):
        FastV(keep=12, asking="some")


def test_positions_stay() -> None:
    with pytest.raises(ValueError, match='positions must be "auto" or "original"'):
        FastV(keep=12, positions="compact")


def test_raters_rate() -> None:
    """Raters are words behind the picture that the visual tokens' embeddings are like."""
    given = tokens(seed=1)
    visual, text = given.embeddings()
    shares = [0.0] * 9
    for row in visual:
        weights = {j: math.exp(float(row @ text[j])) for j in range(2, 9)}
        for j, weight in weights.items():
            shares[j] += weight / sum(weights.values()) / 60
    rows = [j for j in range(2, 9) if shares[j] > 1 / 7]
    assert 0 < len(rows) < 7
    paid = given.attention(torch.tensor(rows)).tolist()
    score = [sum(row[i] for row in paid) / len(rows) for i in range(60)]
    found = SparseVLM(keep=12, recycle=False).choose(given, 12)
    assert found.order.tolist() == sorted(range(60), key=lambda i: -score[i])[:12]


def test_recycled_tokens_are_means_of_clusters() -> None:
    given = tokens(n=90, seed=2)
    k = 20
    found = SparseVLM(keep=k).choose(given, k)
    assert len(found.indices) == k == len(set(found.indices.tolist()))
    # 17 are kept: of 73 dropped 22 (30 % and one) make three clusters, as the program counts.
    assert divided(90, k) == (17, 22)
    paid = given.attention(raters(given)).mean(0).tolist()
    order = sorted(range(90), key=lambda i: -paid[i])
    assert set(order[:17]) < set(found.indices.tolist()) < set(order[:39])
    same = (found.features == given.features[found.indices]).all(1)
    assert set(order[:17]) <= set(found.indices[same].tolist())
    centres, means = clustered(given.features[order[17:39]].float(), 3)
    for centre, mean in zip(centres.tolist(), means, strict=True):
        at = found.indices.tolist().index(order[17 + centre])
        assert torch.allclose(found.features[at].float(), mean)


def test_clusters() -> None:
    """Three heaps far apart: a centre in each, and the means of the heaps."""
    generator = torch.Generator().manual_seed(3)
    heaps = [torch.randn(n, 5, generator=generator) * 0.1 + 10 * i for i, n in enumerate((6, 7, 9))]
    centres, means = clustered(torch.cat(heaps), 3)
    place = {0 if c < 6 else 1 if c < 13 else 2: i for i, c in enumerate(centres.tolist())}
    assert sorted(place) == [0, 1, 2]
    for heap, i in place.items():
        assert torch.allclose(means[i], heaps[heap].mean(0), atol=1e-5)


def test_dart_takes_turns() -> None:
    given = tokens(seed=4)
    k = 15
    found = DARTDecoder(keep=k, pivots=3, words=2).choose(given, k).order.tolist()
    size = given.keys.abs().sum(1).tolist()
    pivots = sorted(range(60), key=lambda i: -size[i])[:3]
    assert found[:3] == pivots
    word_size = given.text_keys.abs().sum(1).tolist()
    words = sorted(range(2, 9), key=lambda i: -word_size[i])[:2]  # two come before the picture
    assert set(words) != set(sorted(range(9), key=lambda i: -word_size[i])[:2])
    rows, text = given.norm(given.features), given.norm(given.text)
    asking = [rows[i] for i in pivots] + [text[i] for i in words]
    left, expected = [i for i in range(60) if i not in pivots], list(pivots)
    for turn, asked in enumerate(asking):
        share = 12 // 5 + (turn < 12 % 5)
        like = [float(torch.cosine_similarity(asked, row, dim=0)) for row in rows]
        taken = sorted(left, key=lambda i: like[i])[:share]
        expected += taken
        left = [i for i in left if i not in taken]
    assert found == expected


def test_spare_spans_hidden_states() -> None:
    given = tokens(seed=5)
    found = SPAREDecoder(keep=9).choose(given, 9)
    assert torch.equal(found.order, select(given.features, 9).order)


@pytest.mark.parametrize("name", list_methods(inside=True))
@pytest.mark.parametrize("k", [1, 2, 5, 59])
def test_any_number(name, k) -> None:
    found = get_method(name, 1.0).choose(tokens(seed=k), k)
    assert len(found.indices) == k
    assert found.indices.tolist() == sorted(set(found.indices.tolist()))
    assert found.features is None or found.features.shape == (k, 16)


@pytest.mark.parametrize("name", list_methods(inside=True))
@pytest.mark.parametrize("layers", [5, 6, 24, 28, 32, 40])
def test_schedules_fit_any_depth(name, layers) -> None:
    method = get_method(name, 0.6)
    schedule = method.schedule(layers, 576)
    assert list(schedule) == sorted(schedule)
    assert list(schedule.values()) == sorted(schedule.values(), reverse=True)
    assert averaged(schedule, layers, 576) == pytest.approx(346, abs=1.5)


def test_published_proportions() -> None:
    """Of SparseVLM's program, with what it recycles: layers 2, 6 and 15 are the last with more."""
    for setting, keep in (((300, 200, 110), 207), ((303, 110, 36), 146), ((66, 30, 17), 83)):
        schedule, before = SparseVLM(keep).schedule(32, 576), 576
        assert list(schedule) == [3, 7, 16]
        for selected, count in zip(setting, schedule.values(), strict=True):
            recycled = int((before - selected) * 0.3) + 1
            before = selected + recycled // 10 + 1
            assert count == pytest.approx(before, abs=2)
