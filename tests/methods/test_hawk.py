"""HAWK against a slow, literal reference; tests/hf/test_first_layer.py has it inside models."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.encoder import FirstLayer
from sparevlm.methods import HAWK
from sparevlm.methods.hawk import _MEASURED
from tests.methods.scene import by_size, everything


def scored(queries, keys, importance) -> list[float]:
    """Of lists [M][H][C] and [N][H][C]."""
    total = [0.0] * len(keys)
    for h, weight in enumerate(importance):
        row = [
            sum(sum(a * b for a, b in zip(q[h], k[h], strict=True)) for q in queries)
            / len(queries)
            / math.sqrt(len(k[h]))
            for k in keys
        ]
        length = math.sqrt(sum(value * value for value in row))
        total = [
            t + weight / sum(importance) * value / length
            for t, value in zip(total, row, strict=True)
        ]
    return total


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 30),
    st.integers(0, 10**6),
    st.booleans(),
    st.sampled_from(["equal", (1.0, 2.0, 0.0, 0.5), (0, 0, 0, 3)]),
)
def test_by_heads(n, seed, asked, importance):
    tokens = everything(n, seed=seed)
    if not asked:
        tokens = replace(tokens, query=None)
    texts = tokens.query.texts if asked else tokens.features
    queries, keys = tokens.first_layer.queries(texts), tokens.first_layer.keys(tokens.features)
    weights = (1, 1, 1, 1) if importance == "equal" else importance
    expected = scored(queries.tolist(), keys.tolist(), weights)
    k = 1 + seed % n
    found = HAWK(k, importance=importance).reduce(tokens)
    assert found.order.tolist() == by_size(expected)[:k]


def test_published_importance_is_for_28_heads():
    tokens = everything(40)
    with pytest.raises(ValueError, match=r"is for 28 heads, and the first layer .* has 4"):
        HAWK(5, importance="qwen2.5-vl-7b").reduce(tokens)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(24, 28 * 3, generator=generator, dtype=torch.float64)

    def heads(rows):
        return (rows @ weight[: rows.shape[1]]).unflatten(1, (28, 3))

    wide = replace(tokens, first_layer=FirstLayer(heads, heads))
    found = HAWK(5, importance="qwen2.5-vl-7b").reduce(wide).order
    queries, keys = heads(tokens.query.texts).tolist(), heads(tokens.features).tolist()
    given = _MEASURED["qwen2.5-vl-7b"]
    assert (given.index(max(given)), given.index(0.0)) == (1, 26)
    assert found.tolist() == by_size(scored(queries, keys, given))[:5]


@pytest.mark.parametrize("importance", ["some", (), (0.0, 0.0), (-1.0, 2.0), [1.0], 3, ("a",)])
def test_importance_is_checked(importance):
    with pytest.raises(ValueError, match="importance must be one of"):
        HAWK(5, importance=importance)


def test_the_layer_must_be_there():
    with pytest.raises(ValueError, match="first layer is missing"):
        HAWK(5).reduce(replace(everything(), first_layer=None))
