"""Many tokens kept of many: what was picked is folded into the products on the way."""

from __future__ import annotations

import pytest
import torch

from sparevlm.selection import select, select_each

from .data import gaussian, uniform

pytestmark = pytest.mark.usefixtures("source")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_picks_as_lapack_would(dtype: torch.dtype) -> None:
    x = gaussian(400, 500, seed=1, dtype=dtype)
    order = select(x, 200).order
    left = x.double().clone()
    for pick in order[:150].tolist():
        assert pick == int(left.norm(dim=1).argmax())
        unit = left[pick] / left[pick].norm()
        left -= torch.outer(left @ unit, unit)


def test_twins_go_to_the_lowest_index() -> None:
    x = gaussian(240, 300, seed=2, dtype=torch.float32)
    twins = torch.cat((x, x.flip(0)))
    found, single = select(twins, 200).order, select(x, 200).order
    assert found.tolist() == single.tolist()


def test_a_batch_is_its_images() -> None:
    images = gaussian(3, 390, 200, seed=3, dtype=torch.float32)
    batch = select(images, 150)
    for b, x in enumerate(images):
        single = select(x, 150)
        assert torch.equal(batch.order[b], single.order)
        assert torch.equal(batch.residual[b], single.residual)


def test_pictures_of_unlike_size() -> None:
    sizes, ks = (400, 196, 500), [90, 60, 140]
    pictures = [gaussian(n, 128, seed=n, dtype=torch.float32) for n in sizes]
    weights = [None, uniform(196, seed=1), uniform(500, seed=2)]
    for i, found in enumerate(select_each(pictures, ks, weights)):
        single = select(pictures[i], ks[i], weights=weights[i])
        assert torch.equal(found.order, single.order)
        assert torch.equal(found.residual, single.residual)
