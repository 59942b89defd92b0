"""A batch gives exactly what its images give one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparevlm.selection import Selection, select

from .data import gaussian, low_rank, seeds, uneven, uniform

pytestmark = pytest.mark.usefixtures("source")
DTYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


def same(batch: Selection, b: int, single: Selection) -> bool:
    return torch.equal(batch.order[b], single.order) and torch.equal(
        batch.residual[b], single.residual
    )


@given(
    b=st.integers(1, 4),
    n=st.integers(1, 70),
    d=st.integers(1, 70),
    k=st.integers(1, 80),
    seed=seeds,
    dtype=st.sampled_from(DTYPES),
)
@settings(deadline=None, max_examples=60)
def test_bit_for_bit(b: int, n: int, d: int, k: int, seed: int, dtype: torch.dtype) -> None:
    x = gaussian(b, n, d, seed=seed, dtype=dtype)
    found = select(x, k)
    assert found.order.shape == (b, min(k, n))
    assert found.residual.shape == (b, min(k, n) + 1)
    assert found.count.tolist() == [min(k, n)] * b
    for i in range(b):
        assert same(found, i, select(x[i].clone(), k))


def test_bit_for_bit_with_weights_of_each_image() -> None:
    x, w = gaussian(3, 33, 17, seed=1, dtype=torch.float32), uniform(3, 33, seed=1)
    found = select(x, 12, weights=w)
    for i in range(3):
        assert same(found, i, select(x[i].clone(), 12, weights=w[i]))
    assert not torch.equal(found.order, select(x, 12).order)


def test_bit_for_bit_with_weights_for_all_images() -> None:
    x, w = gaussian(3, 33, 17, seed=2, dtype=torch.float32), uniform(33, seed=2)
    found = select(x, 12, weights=w)
    for i in range(3):
        assert same(found, i, select(x[i].clone(), 12, weights=w))


def test_company_of_other_scale_and_rank() -> None:
    zero, tiny = torch.zeros(20, 9, dtype=torch.float64), 1e-200 * gaussian(20, 9)
    x = torch.stack((zero, tiny, 1e200 * low_rank(20, 9, 2), uneven(20, 9, 20)))
    found = select(x, 14)
    for i in range(4):
        assert same(found, i, select(x[i].clone(), 14))
