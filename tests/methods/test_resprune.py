"""ResPrune against a literal reference, and as one of SPARE's settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.methods import SPARE, ResPrune
from sparevlm.tokens import Query, VisualTokens


def asked(n: int, dim: int, seed: int) -> VisualTokens:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dim)) * rng.random((n, 1))
    query = Query(
        torch.from_numpy(rng.standard_normal((n, 5))), torch.from_numpy(rng.standard_normal((3, 5)))
    )
    return VisualTokens(torch.from_numpy(rows), query=query)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 20), st.integers(2, 8), st.integers(0, 10**6), st.sampled_from([0, 0.5, 1, 3])
)
def test_by_least_squares(n, dim, seed, alpha):
    tokens = asked(n, dim, seed)
    rows = tokens.features.numpy()
    patches, texts = tokens.query.patches.numpy(), tokens.query.texts.numpy()
    cosines = [
        np.mean([p @ t / np.linalg.norm(p) / np.linalg.norm(t) for t in texts]) for p in patches
    ]
    scaled = (np.array(cosines) - min(cosines)) / (max(cosines) - min(cosines))
    kept: list[int] = []
    for _ in range(min(n, dim, 1 + seed % n)):
        utility = []
        for i in range(n):
            left = rows[i]
            if kept:
                basis = rows[kept].T
                left = left - basis @ np.linalg.lstsq(basis, left, rcond=None)[0]
            utility.append(-1.0 if i in kept else scaled[i] ** alpha * (left @ left))
        if max(utility) < 1e-9:  # nothing is left to explain
            break
        kept.append(int(np.argmax(utility)))
    found = ResPrune(max(len(kept), 1), alpha=alpha).reduce(tokens)
    assert found.order.tolist()[: len(kept)] == kept


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_it_is_spare_with_normal_guidance_as_a_power(alpha):
    tokens = asked(60, 30, 4)
    spare = SPARE(20, guidance="normal", form="power", strength=alpha / 2)
    assert torch.equal(ResPrune(20, alpha=alpha).reduce(tokens).order, spare.reduce(tokens).order)


def test_alpha_must_not_be_negative():
    with pytest.raises(ValueError, match="of at least 0"):
        ResPrune(5, alpha=-1)
