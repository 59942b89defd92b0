"""Selection against explicit residual rows, over random inputs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sparevlm.selection import select

from .data import gaussian, seeds, sizes, uniform
from .reference import ExactRows, literal_selection

pytestmark = pytest.mark.usefixtures("source")


@given(n=sizes, d=sizes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_order_and_residual(n: int, d: int, seed: int) -> None:
    x, k = gaussian(n, d, seed=seed), min(n, d)
    order, residual = literal_selection(x, k)
    found = select(x, k)
    assert found.order.tolist() == order
    assert np.allclose(found.residual, residual, rtol=1e-6, atol=1e-12)


@given(n=sizes, d=sizes, seed=seeds)
@settings(deadline=None, max_examples=60)
def test_order_and_residual_with_weights(n: int, d: int, seed: int) -> None:
    x, w, k = gaussian(n, d, seed=seed), uniform(n, seed=seed), min(n, d)
    order, residual = literal_selection(x, k, w)
    found = select(x, k, weights=w)
    # A weight may bring the last rows below the floor where they no longer count.
    seen = int((np.array(residual) > 1e-12).sum())
    assert found.order[:seen].tolist() == order[:seen]
    assert np.allclose(found.residual, residual, rtol=1e-6, atol=1e-12)


@given(
    rows=st.tuples(st.integers(1, 7), st.integers(1, 5)).flatmap(
        lambda shape: hnp.arrays(np.int64, shape, elements=st.integers(-3, 3))
    )
)
@settings(deadline=None, max_examples=150)
def test_every_pick_is_a_largest_one_in_exact_arithmetic(rows: np.ndarray) -> None:
    exact = ExactRows(rows)
    found = select(gaussian(1).new_tensor(rows.tolist()), len(rows))
    assert sorted(found.order.tolist()) == list(range(len(rows)))
    total = sum(exact.values())
    norms = exact.values()
    exhausted: list[int] = []
    for t, pick in enumerate(found.order.tolist()):
        values = exact.values()
        assert float(found.residual[t]) == pytest.approx(
            float(sum(values) / (total or 1)), abs=1e-9
        )
        if max(values) == 0:
            exhausted.append(pick)
            continue
        assert values[pick] >= max(values) * (1 - 1e-9)
        exact.keep(pick)
    # What is left over once all is explained comes by norm, then by index.
    assert exhausted == sorted(exhausted, key=lambda i: (-norms[i], i))
