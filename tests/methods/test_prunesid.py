"""PruneSID against a slow, literal reference."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.methods import PruneSID
from tests.methods.scene import by_size, cosine, everything, numbers


def given_by_groups(v, a, k, patches):
    """Tokens that each group gives, by loops over lists."""
    n = len(v)
    squashed = 1 / (1 + np.exp(-v))
    centred = (squashed - squashed.mean(1, keepdims=True)).T  # channels, tokens
    _, values, vectors = np.linalg.svd(centred, full_matrices=False)
    entries = np.abs(vectors[: max(1, k // 4)][values[: max(1, k // 4)] > 1e-9])
    component = entries.argmax(0)
    groups = [[i for i in range(n) if component[i] == g] for g in range(len(entries))]
    cosines = [cosine(v[i], v[j]) for i in range(n) for j in range(i)]
    limit = 18 * k / n * sum(cosines) / len(cosines)
    ranked, counts = [], []
    for group in groups:
        left, kept = sorted(group, key=lambda i: -a[i]), []
        while left:
            kept.append(left[0])
            left = [j for j in left[1:] if cosine(v[kept[-1]], v[j]) <= limit]
        counts.append(len(kept))
        ranked.append(kept + sorted(set(group) - set(kept), key=lambda i: -a[i]))
    least = [min(1, len(group)) for group in groups]
    most = [min(5 * math.ceil(k / 64), len(g), c) for g, c in zip(groups, counts, strict=True)]
    while sum(most) < k:
        most = [min(m + 1, len(g)) for m, g in zip(most, groups, strict=True)]
    rest = patches - sum(least)
    ends = [round(share * rest) for share in np.cumsum(counts) / sum(counts)]
    shares = np.diff([0, *ends])
    got = [min(b + s, m) for b, s, m in zip(least, shares, most, strict=True)]
    for g in by_size(np.array(counts, dtype=float)):
        while got[g] < most[g] and sum(got) < patches:
            got[g] += 1
    return [i for mine, count in zip(ranked, got, strict=True) for i in mine[:count]]


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 60), st.integers(0, 10**6), st.booleans(), st.sampled_from([0, 0.2, 0.7]))
def test_by_loops(n, seed, class_token, shift):
    tokens = everything(n, seed=seed, class_token=class_token)
    tokens.projector.states.add_(shift)  # the more, the more alike
    x, v, a, _, project = numbers(tokens)
    k = 1 + seed % (n - 1)
    own = class_token and k > 1
    chosen = given_by_groups(v, a.sum(0), k, k - own)
    found = PruneSID(k).reduce(tokens)
    if not own:
        assert found.order.tolist() == chosen
        return
    place = min(set(range(n)) - set(chosen))
    assert found.order.tolist() == [*chosen, place]
    rows = {i: x[i] for i in chosen}
    rows[place] = project(tokens.projector.class_state[None])[0]
    expected = np.array([rows[i] for i in sorted(rows)])
    np.testing.assert_allclose(found.features.numpy(), expected, rtol=1e-6, atol=1e-8)
