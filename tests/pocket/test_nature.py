"""What the features of the pocket model are trained to be like."""

import numpy as np
import pytest
import torch

from sparevlm.pocket.scenes import GRID, PATCH_SIZE, SCENES, Scene, draw_scene
from sparevlm.pocket.training import nature


@pytest.mark.parametrize("scenes", SCENES)
def test_long_patches_lie_on_background(scenes):
    for seed in range(5):
        scene = draw_scene(seed, scenes)
        chosen = nature.long_patches(scene)
        assert chosen.shape == (GRID**2,)
        assert chosen.sum() == nature.LONG
        assert (scene.owner.reshape(-1)[chosen] == -1).all()


def test_long_patches_are_the_most_even_ones():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    even = np.s_[3 * PATCH_SIZE : 6 * PATCH_SIZE, 7 * PATCH_SIZE : 10 * PATCH_SIZE]
    image[even] = 128
    scene = Scene(image, (), np.full((GRID, GRID), -1))
    chosen = np.flatnonzero(nature.long_patches(scene))
    assert 4 * GRID + 8 in chosen  # all of its neighbours are even as well
    things = np.full((GRID, GRID), -1)
    things[4, 8] = 0
    assert 4 * GRID + 8 not in np.flatnonzero(nature.long_patches(Scene(image, (), things)))


def test_looks_say_what_a_patch_looks_like_beside_its_mean():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 200, (2, 112, 112, 3), generator=generator, dtype=torch.uint8)
    seen = nature.looks(images)
    assert seen.shape == (2, GRID**2, nature.DETAILS)
    assert float(seen.norm(dim=-1).max()) < 1
    assert torch.allclose(nature.looks(images + 50), seen, atol=1e-5)  # lighter, else the same
    assert not nature.looks(torch.full_like(images, 90)).abs().gt(1e-5).any()
    other = images.clone()
    other[0, :PATCH_SIZE, PATCH_SIZE : 2 * PATCH_SIZE] = 0
    changed = (nature.looks(other) != seen).any(-1).nonzero().tolist()
    assert changed == [[0, 1]]


def test_length_loss_is_nothing_where_lengths_are_as_wanted():
    rows = torch.nn.functional.normalize(torch.randn(1, 196, 16), dim=-1)
    long = torch.zeros(1, 196, dtype=torch.bool)
    long[0, [5, 70]] = True
    wanted = torch.where(long[..., None], nature.FACTOR * rows, rows)
    assert float(nature.length_loss(7 * wanted, long)) < 1e-8
    assert float(nature.length_loss(rows, long)) == pytest.approx(
        np.log(nature.FACTOR) ** 2, rel=1e-4
    )
    wanted[0, 0] *= 3
    assert float(nature.length_loss(wanted, long)) > 1e-3


def test_looks_loss_is_nothing_where_the_subspace_holds_them():
    seen = torch.nn.functional.normalize(torch.randn(2, 5, nature.DETAILS), dim=-1)
    looks = nature.Looks(96)
    basis = looks.directions
    assert torch.allclose(basis.T @ basis, torch.eye(nature.DETAILS), atol=1e-5)
    outside = torch.randn(2, 5, 96)
    outside -= outside @ basis @ basis.T
    outside = torch.nn.functional.normalize(outside, dim=-1)
    rows = nature.SHARE**0.5 * seen @ basis.T + (1 - nature.SHARE) ** 0.5 * outside
    assert float(looks(9 * rows, seen)) < 1e-10
    assert float(looks(outside, seen)) == pytest.approx(nature.SHARE, rel=1e-4)
