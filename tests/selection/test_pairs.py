"""Products of all pairs, of which half are mirrored."""

from __future__ import annotations

import pytest
import torch

from sparevlm.selection import cosine_pairs
from sparevlm.selection.products import pairs

from .data import gaussian


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 50, 383, 384, 400, 577, 803])
def test_all_pairs(n, dtype) -> None:
    x = gaussian(n, 70, seed=n, dtype=dtype)
    out = torch.empty(n, n, dtype=dtype)
    assert pairs(x, out) is out
    assert torch.equal(out, pairs(x))
    torch.testing.assert_close(out, (x.double() @ x.double().T).to(dtype))
    # A library's product of a block with itself may round the halves apart (MKL in float64 on AMD).
    torch.testing.assert_close(out, out.T, rtol=0, atol=1e3 * torch.finfo(dtype).eps)
    if n >= 384:
        assert torch.equal(out[:100, -100:], out[-100:, :100].T)


@pytest.mark.parametrize("n", [384, 577, 1000])
def test_twins_are_alike_wherever_they_lie(n) -> None:
    x = gaussian(n, 300, seed=1, dtype=torch.float32)
    x[n // 2 :] = x[: n - n // 2].flip(0)
    product = pairs(x)
    assert torch.equal(product[n // 2 :], product[: n - n // 2].flip(0))
    assert torch.equal(product[:, n // 2 :], product[:, : n - n // 2].flip(1))


@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_cosines_of_any_size_of_rows(scale) -> None:
    x = gaussian(40, 30, seed=2, dtype=torch.float32)
    expected = torch.nn.functional.normalize(x.double(), dim=1)
    torch.testing.assert_close(
        cosine_pairs(x * scale).double(), expected @ expected.T, rtol=1e-5, atol=1e-6
    )


def test_zero_rows_are_like_nothing() -> None:
    x = gaussian(6, 4, seed=3)
    x[2] = 0
    assert cosine_pairs(x)[2].eq(0).all()
