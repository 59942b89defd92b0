"""Selection neither depends on its surroundings nor changes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sparevlm.selection import Selection, select

from .data import gaussian, uniform

pytestmark = pytest.mark.usefixtures("source")


def same(a: Selection, b: Selection) -> bool:
    return torch.equal(a.order, b.order) and torch.equal(a.residual, b.residual)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_has_no_effect(dtype: torch.dtype) -> None:
    x, w = gaussian(60, 50, seed=1, dtype=torch.float32), uniform(60, seed=1)
    plain = select(x, 40, weights=w)
    with torch.autocast("cpu", dtype=dtype):
        assert (x @ x.T).dtype == dtype  # it is on
        assert same(select(x, 40, weights=w), plain)


def test_reduced_precision_products_have_no_effect() -> None:
    x = gaussian(300, 256, seed=2, dtype=torch.float32)
    plain = select(x, 100)
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("high", "medium"):
            torch.set_float32_matmul_precision(precision)
            assert same(select(x, 100), plain)
            assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


def test_precision_is_restored_after_an_error() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with pytest.raises(ValueError, match="row 0"):
            select(torch.full((3, 3), float("nan")), 2)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_requires_grad_has_no_effect() -> None:
    x, w = gaussian(20, 16, seed=3), uniform(20, seed=3)
    found = select(x.clone().requires_grad_(), 10, weights=w.clone().requires_grad_())
    assert not found.residual.requires_grad
    assert same(found, select(x, 10, weights=w))


def test_inference_mode_has_no_effect() -> None:
    x = gaussian(20, 16, seed=4)
    with torch.inference_mode():
        found = select(x.clone(), 10)
    assert same(found, select(x, 10))


@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e200])
@pytest.mark.parametrize("tol", [0.0, 0.3])
def test_input_is_not_modified(scale: float, tol: float) -> None:
    x, w = gaussian(2, 20, 16, seed=5) * scale, uniform(20, seed=5)
    x[0, 3] = 0
    copies = x.clone(), w.clone()
    select(x, 12, weights=w, tol=tol)
    assert torch.equal(x, copies[0])
    assert torch.equal(w, copies[1])


def strided(x: Tensor) -> dict[str, Tensor]:
    padded = torch.zeros(x.shape[0] + 3, 2 * x.shape[1] + 5, dtype=x.dtype)
    sliced = padded[1:-2, 3:-2:2]
    sliced.copy_(x)
    return {
        "transposed": x.T.contiguous().T,
        "sliced": sliced,
        "flipped": x.flip(0).flip(0),
        "offset": torch.cat((x.new_zeros(1), x.flatten()))[1:].view_as(x),
    }


@pytest.mark.parametrize("kind", ["transposed", "sliced", "flipped", "offset"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_layout_has_no_effect(kind: str, dtype: torch.dtype) -> None:
    x = gaussian(37, 29, seed=6, dtype=dtype)
    view = strided(x)[kind]
    assert torch.equal(view, x)
    assert same(select(view, 20), select(x, 20))


def test_expanded_batch() -> None:
    x = gaussian(20, 16, seed=7)
    found = select(x.expand(3, 20, 16), 10)
    for b in range(3):
        assert torch.equal(found.order[b], select(x, 10).order)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_compiled(batch: tuple[int, ...], weighted: bool) -> None:
    """torch.compile takes it whole, checks of values included."""
    x, w = gaussian(*batch, 40, 16, seed=9), uniform(40, seed=9) if weighted else None

    def kept(features: Tensor) -> tuple[Tensor, Tensor]:
        found = select(features * 2, 10, weights=w)
        return found.order + 0, found.residual * 1

    compiled = torch.compile(kept, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(x), kept(x), strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="NaN or infinity"):
        compiled(x / 0)
