"""Methods that read the vision encoder, against slow, literal references."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.methods import (
    SCOPE,
    TRIM,
    ApET,
    FasterVLM,
    HiPrune,
    IDSelection,
    MMTok,
    PruMerge,
    PruMergePlus,
    VisionZip,
    VisPruner,
    ZOOPrune,
)
from tests.methods.scene import by_size, cosine, everything, numbers

cases = st.tuples(st.integers(4, 40), st.integers(0, 10**6), st.booleans())


def check(found, expected):
    """expected: {index: row}."""
    assert found.indices.tolist() == sorted(expected)
    rows = np.array([expected[i] for i in sorted(expected)])
    np.testing.assert_allclose(found.features.numpy(), rows, rtol=1e-6, atol=1e-8)


def drawn(case):
    n, seed, class_token = case
    tokens = everything(n, seed=seed, class_token=class_token)
    return tokens, numbers(tokens), 1 + seed % (n - 1)


@settings(max_examples=30, deadline=None)
@given(cases)
def test_fastervlm(case):
    tokens, (_, _, a, _, _), k = drawn(case)
    found = FasterVLM(k).reduce(tokens)
    assert found.order.tolist() == by_size(a.mean(0))[:k]


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(1, 9))
def test_vispruner(case, important, per_round):
    tokens, (_, v, a, _, _), k = drawn(case)
    ranked = by_size(a.mean(0))
    first, left = ranked[: int(k * important)], ranked[int(k * important) :]
    while len(first) + len(left) > k:
        even, odd = left[0::2], left[1::2]
        if not odd:
            left = []
            break
        like = [max(cosine(v[i], v[j]) for j in odd) for i in even]
        drop = min(per_round, len(first) + len(left) - k)
        left = [even[i] for i in by_size(like)[drop:]] + odd
    found = VisPruner(k, important=important, per_round=per_round).reduce(tokens)
    assert found.indices.tolist() == sorted(first + left)


def test_vispruner_of_many_tokens_takes_products_once(monkeypatch):
    tokens = everything(200)
    expected = VisPruner(20).reduce(tokens).indices
    monkeypatch.setattr("sparevlm.methods.vispruner._DIRECT", 100)
    assert VisPruner(20).reduce(tokens).indices.equal(expected)


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from([0.0, 10 / 64, 0.5, 0.9]))
def test_visionzip(case, contextual):
    tokens, (x, v, a, keys, project), k = drawn(case)
    wanted = round(k * contextual)
    class_token = tokens.projector.class_state
    dominant = by_size(a.sum(0))[: max(k - wanted - (class_token is not None), 0)]
    expected = {i: x[i] for i in dominant}
    rest = [i for i in range(len(x)) if i not in dominant]
    targets = rest[:: max(1, len(rest) // max(wanted, 1))][:wanted]
    others = [i for i in rest if i not in targets]
    mean_key = keys.mean(1)
    merged = {t: [] for t in targets}
    for i in others if targets else []:
        merged[max(targets, key=lambda t: (cosine(mean_key[i], mean_key[t]), -t))].append(v[i])
    for t, rows in merged.items():
        expected[t] = project([v[t] + (np.mean(rows, 0) if rows else 0)])[0]
    if class_token is not None and k > wanted:
        expected[others[0]] = project([class_token.numpy()])[0]
    check(VisionZip(k, contextual=contextual).reduce(tokens), expected)


def merge_into(kept, v, attention, keys, project, neighbours):
    """PruMerge's tokens: each kept one with its neighbours, and the sum of the dropped."""
    flat = keys.reshape(len(v), -1)
    expected = {}
    for i in kept:
        others = [j for j in range(len(v)) if j != i]
        like = [cosine(flat[i], flat[j]) for j in others]
        near = [others[j] for j in by_size(like)[:neighbours]]
        expected[i] = project([v[i] + sum(attention[j] * v[j] for j in near)])[0]
    dropped = [j for j in range(len(v)) if j not in kept]
    expected[dropped[-1]] = project([sum(attention[j] * v[j] for j in dropped)])[0]
    return expected


def outliers(values):
    low, high = np.percentile(values, 25), np.percentile(values, 75)
    return sum(value > high + 1.5 * (high - low) for value in values)


@settings(max_examples=30, deadline=None)
@given(cases, st.booleans(), st.sampled_from([3, 32]))
def test_prumerge(case, adaptive, neighbours):
    tokens, (_, v, a, keys, project), k = drawn(case)
    attention = a.mean(0)
    count = min(outliers(attention), k - 1) if adaptive else k - 1
    kept = by_size(attention)[:count]
    found = PruMerge(k, adaptive=adaptive, neighbours=neighbours).reduce(tokens)
    check(found, merge_into(kept, v, attention, keys, project, neighbours))


@settings(max_examples=30, deadline=None)
@given(cases)
def test_prumerge_plus(case):
    tokens, (_, v, a, keys, project), k = drawn(case)
    attention, m = a.mean(0), k - 1
    kept = by_size(attention)[: m - m // 2]
    rest = [i for i in range(len(v)) if i not in kept]
    kept += [rest[(2 * i + 1) * len(rest) // (2 * (m // 2))] for i in range(m // 2)]
    found = PruMergePlus(k).reduce(tokens)
    check(found, merge_into(kept, v, attention, keys, project, 32))


@pytest.mark.parametrize("seed", range(4))
def test_prumerge_plus_adaptive(seed):
    tokens = everything(60, seed=seed)
    attention = tokens.attention().mean(0)
    attention[[3, 17, 40]] += 2
    tokens = everything(60, seed=seed, encoder_attention=attention)
    _, v, a, keys, project = numbers(tokens)
    n_out = outliers(a[0])
    assert n_out >= 3
    kept = by_size(a[0])[:n_out]
    step = int(60 / n_out) // 3
    kept += [i for i in range(0, 59, step) if i not in kept]
    found = PruMergePlus(59, adaptive=True).reduce(tokens)
    check(found, merge_into(kept, v, a[0], keys, project, 32))
    assert len(PruMergePlus(8, adaptive=True).reduce(tokens).indices) == 8


@settings(max_examples=30, deadline=None)
@given(cases, st.booleans())
def test_trim(case, adaptive):
    tokens, (x, v, _, _, project), k = drawn(case)
    text = tokens.query.texts.numpy().mean(0)
    dots = -(tokens.query.patches.numpy() @ text)
    scores = np.exp(dots - dots.max()) / np.exp(dots - dots.max()).sum()
    count = min(outliers(scores), k - 1) if adaptive else k - 1
    kept = by_size(scores)[:count]
    dropped = [i for i in range(len(x)) if i not in kept]
    expected = {i: x[i] for i in kept} | {dropped[-1]: project([v[dropped].mean(0)])[0]}
    check(TRIM(k, adaptive=adaptive).reduce(tokens), expected)


@settings(max_examples=30, deadline=None)
@given(cases, st.sampled_from([0, 1.0, 2.5]))
def test_scope(case, alpha):
    tokens, (_, v, a, _, _), k = drawn(case)
    n, saliency = len(v), a.sum(0) ** alpha
    best, kept = np.zeros(n), []
    for _ in range(k):
        gains = {
            j: saliency[j] * sum(max(0.0, cosine(v[i], v[j]) - best[i]) for i in range(n))
            for j in range(n)
            if j not in kept
        }
        kept.append(next(j for j in gains if gains[j] >= max(gains.values()) * (1 - 1e-12)))
        best = np.array([max(best[i], cosine(v[i], v[kept[-1]])) for i in range(n)])
    assert SCOPE(k, alpha=alpha).reduce(tokens).order.tolist() == kept


def test_a_question_is_needed():
    tokens = everything(query=None)
    with pytest.raises(ValueError, match="ranks tokens by the question"):
        TRIM(5).reduce(tokens)


@pytest.mark.parametrize(
    "method", [FasterVLM, VisPruner, VisionZip, PruMerge, SCOPE, HiPrune, IDSelection]
)
def test_what_is_missing_is_named(method):
    tokens = everything(encoder_attention=None)
    with pytest.raises(ValueError, match="attention is missing: attach"):
        method(5).reduce(tokens)
    wrong = everything(encoder_attention=torch.rand(4, 61))
    with pytest.raises(ValueError, match="61 tokens, not 60"):
        method(5).reduce(wrong)


def test_bad_settings():
    for make, words in (
        (lambda: VisPruner(5, important=1.5), "from 0 to 1"),
        (lambda: VisPruner(5, per_round=0), "positive integer"),
        (lambda: VisionZip(5, contextual=1.0), "from 0 to below 1"),
        (lambda: PruMerge(5, adaptive=1), "True or False"),
        (lambda: PruMerge(5, neighbours=0.5), "positive integer"),
        (lambda: TRIM(5, adaptive="yes"), "True or False"),
        (lambda: SCOPE(5, alpha=-1), "at least 0"),
        (lambda: HiPrune(5, alpha=2), "from 0 to 1"),
        (lambda: HiPrune(5, middle=1.5), "index of a layer"),
        (lambda: MMTok(5, alpha=-0.1), "at least 0"),
        (lambda: MMTok(5, text_temperature=0), "above 0"),
        (lambda: ApET(5, basis=0), "positive integer"),
        (lambda: ZOOPrune(5, directions=0), "positive integer"),
        (lambda: ZOOPrune(5, step=0), "above 0"),
        (lambda: ZOOPrune(5, seed=-1), "an integer >= 0"),
        (lambda: IDSelection(5, gamma=0), "above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from([0.0, 0.1, 0.6, 1.0]))
def test_hiprune(case, alpha):
    tokens, _, k = drawn(case)
    n, columns = len(tokens), tokens.grid[1]
    middle, late = (tokens.attention(i).numpy().mean(0) for i in (0, 1))
    anchors = by_size(middle)[: round(k * alpha / 5)]
    local = []
    for step in (0, -1, 1, -columns, columns):
        for anchor in anchors:
            near = min(max(anchor + step, 0), n - 1)
            if near not in local:
                local.append(near)
    local = local[:k]
    kept = local + [i for i in by_size(late) if i not in local][: k - len(local)]
    found = HiPrune(k, alpha=alpha).reduce(tokens)
    assert found.indices.tolist() == sorted(kept)
    assert found.order.tolist() == kept


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


@settings(max_examples=30, deadline=None)
@given(cases, st.booleans())
def test_mmtok(case, question):
    tokens, (_, v, _, _, _), k = drawn(case)
    n = len(v)
    q = np.stack(
        [softmax(np.array([cosine(v[i], v[j]) for j in range(n)]) / 0.2) for i in range(n)]
    )
    rows = [(0.5 / n, row) for row in q]
    if question:
        texts, patches = tokens.query.texts.numpy(), tokens.query.patches.numpy()
        for t in texts:
            p = softmax(np.array([cosine(t, patch) for patch in patches]) / 0.02)
            rows.append((1 / len(texts), p))
    else:
        tokens = dataclasses.replace(tokens, query=None)
    best, kept = [0.0] * len(rows), []
    for _ in range(k):
        gain = {
            j: sum(w * max(0.0, row[j] - b) for b, (w, row) in zip(best, rows, strict=True))
            for j in range(n)
            if j not in kept
        }
        kept.append(next(j for j in gain if gain[j] >= max(gain.values()) * (1 - 1e-12)))
        best = [max(b, row[kept[-1]]) for b, (_, row) in zip(best, rows, strict=True)]
    assert MMTok(k).reduce(tokens).order.tolist() == kept


@settings(max_examples=30, deadline=None)
@given(cases, st.sampled_from([1, 3, 10]))
def test_apet(case, size):
    tokens, (x, v, _, _, project), k = drawn(case)
    n = len(v)
    basis = [by_size([np.linalg.norm(row) for row in v])[0]]
    while len(basis) < min(size, n):
        far = [min(np.linalg.norm(v[i] - v[j]) for j in basis) for i in range(n)]
        basis.append(int(np.argmax(far)))
    s = v[basis]
    inverse = np.linalg.inv(s @ s.T + 1e-5 * np.eye(len(s)))
    errors = [np.linalg.norm(row - s.T @ inverse @ s @ row) for row in v]
    basis = basis[: k - 1]
    worst = [i for i in by_size(errors) if i not in basis][: k - len(basis)]
    groups = {i: [v[i]] for i in worst}
    for i in range(n):
        if i not in worst and i not in basis:
            groups[max(worst, key=lambda j: cosine(v[i], v[j]))].append(v[i])
    expected = {i: project([np.mean(rows, 0)])[0] for i, rows in groups.items()}
    check(ApET(k, basis=size).reduce(tokens), expected | {i: x[i] for i in basis})


@settings(max_examples=20, deadline=None)
@given(cases)
def test_zoo_prune(case):
    tokens, (x, v, _, _, project), k = drawn(case)
    generator = torch.Generator().manual_seed(7)
    total = np.zeros(len(v))
    for _ in range(5):
        u = torch.randn(v.shape[1], generator=generator, dtype=torch.float64).numpy()
        u = 0.1 * u / np.linalg.norm(u)
        total += [np.linalg.norm(project([row + u])[0] - project([row - u])[0]) for row in v]
    s = (total - total.min()) / (total.max() - total.min())
    kept = [int(np.argmax(s))]
    while len(kept) < k:
        gain = [
            -1 if i in kept else s[i] * (1 - max(cosine(x[i], x[j]) for j in kept))
            for i in range(len(v))
        ]
        kept.append(int(np.argmax(gain)))
    found = ZOOPrune(k, directions=5, step=0.1, seed=7).reduce(tokens)
    np.testing.assert_allclose(found.scores.numpy(), total / 5 / 0.2)
    assert found.order.tolist() == kept


@settings(max_examples=30, deadline=None)
@given(cases, st.sampled_from([0.5, 20.0]))
def test_id_selection(case, gamma):
    tokens, (x, _, a, _, _), k = drawn(case)
    s = a.mean(0)
    s = (s - s.min()) / (s.max() - s.min())
    kept = []
    for _ in range(k):
        i = max((j for j in range(len(x)) if j not in kept), key=lambda j: (s[j], -j))
        kept.append(i)
        s = s - s[i] * np.array([np.exp(-gamma * (1 - cosine(x[i], row)) ** 2) for row in x])
    assert IDSelection(k, gamma=gamma).reduce(tokens).order.tolist() == kept
