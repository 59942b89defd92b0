"""Pictures of different sizes that are chosen from in one loop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.selection import greedy_css_each, max_coverage, max_coverage_each, select, select_each

from .data import gaussian, low_rank

sizes = st.lists(st.integers(1, 220), min_size=2, max_size=6)


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(1, 300), st.booleans(), st.integers(0, 10**6))
def test_each_is_as_by_itself(lengths, k, weighted, seed) -> None:
    draw = torch.Generator().manual_seed(seed)
    pictures = [torch.randn(n, 24, generator=draw) for n in lengths]
    weights = [torch.rand(n, generator=draw) if weighted else None for n in lengths]
    ks = [max(1, k * n // 300) for n in lengths]
    for x, w, j, one in zip(pictures, weights, ks, select_each(pictures, ks, weights), strict=True):
        alone = select(x, j, weights=w)
        assert torch.equal(one.order, alone.order)
        assert torch.equal(one.residual, alone.residual)
        assert int(one.count) == int(alone.count)


@pytest.mark.parametrize("way", ["gram", "columns", "blocks"])
def test_whatever_products_are_taken(way, monkeypatch) -> None:
    monkeypatch.setattr("sparevlm.selection.pivoting._way", lambda images, k: way)
    pictures = [gaussian(n, 40, seed=n, dtype=torch.float32) for n in (150, 33, 97, 150)]
    for x, one in zip(pictures, select_each(pictures, [30, 33, 20, 5]), strict=True):
        alone = select(x, len(one.order))
        assert torch.equal(one.order, alone.order) and torch.equal(one.residual, alone.residual)


def test_one_of_low_rank_changes_no_other() -> None:
    pictures = [gaussian(n, 24, seed=n, dtype=torch.float32) for n in (60, 41, 77)]
    expected = select_each(pictures, [10] * 3)
    pictures[1] = low_rank(41, 24, 3, seed=7).float()
    found = select_each(pictures, [10] * 3)
    assert len(set(found[1].order.tolist())) == 10
    for i in (0, 2):
        assert torch.equal(found[i].order, expected[i].order)
        assert torch.equal(found[i].residual, expected[i].residual)


@pytest.mark.parametrize("choose", [select_each, greedy_css_each])
@pytest.mark.parametrize("d", [24, 20_000])  # what stays in a cache goes another way
@pytest.mark.parametrize("lengths", [(60, 41, 77), (60, 41, 41), (41,) * 3])
def test_a_bad_value_is_named_with_its_image(lengths, d, choose) -> None:
    pictures = [gaussian(n, d, seed=n) for n in lengths]
    pictures[-1][17, 3] = torch.nan
    with pytest.raises(ValueError, match=f"image {len(lengths) - 1}, row 17"):
        choose(pictures, [10] * len(lengths))


@pytest.mark.parametrize("bad", [torch.tensor([-1.0] * 41), torch.tensor([torch.nan] * 41)])
def test_bad_weights(bad) -> None:
    pictures = [gaussian(n, 24, seed=n) for n in (60, 41)]
    with pytest.raises(ValueError, match="finite and not negative"):
        select_each(pictures, [10, 10], [torch.ones(60), bad])
    with pytest.raises(ValueError, match="one entry per token"):
        select_each(pictures, [10, 10], [torch.ones(60), torch.ones(60)])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 150), st.integers(1, 300)), min_size=2, max_size=5),
       st.integers(1, 40), st.integers(0, 10**6))  # fmt: skip
def test_coverage_of_each(shapes, k, seed) -> None:
    draw = torch.Generator().manual_seed(seed)
    matrices = [torch.rand(m, n, generator=draw) for n, m in shapes]
    weights = [torch.rand(m, generator=draw) for _, m in shapes]
    factors = [torch.rand(n, generator=draw) for n, _ in shapes]
    found = max_coverage_each(matrices, [k] * len(shapes), weights=weights, factors=factors)
    for s, w, f, order in zip(matrices, weights, factors, found, strict=True):
        assert torch.equal(order, max_coverage(s, k, weights=w, factor=f))
