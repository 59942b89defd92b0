"""What the features of the pocket model are trained to be like."""

import json

import numpy as np
import pytest
import torch

from sparevlm.pocket.scenes import GRID, PATCH_SIZE
from sparevlm.pocket.training import language, nature, tower


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
    background = torch.ones(1, 196, dtype=torch.bool)
    background[0, 100:] = False
    assert float(nature.length_loss(rows, background)) == pytest.approx(
        np.log(nature.FACTOR) ** 2, rel=1e-4
    )
    for places, right in (([5, 6, 70], True), ([5, 6, 170], False), ([5, 6, 7, 70], False)):
        wanted = rows.clone()
        wanted[0, places] *= nature.FACTOR
        loss = float(nature.length_loss(7 * wanted, background))
        assert (loss < 1e-8) == right, places


def test_length_loss_without_background():
    rows = torch.nn.functional.normalize(torch.randn(1, 196, 16), dim=-1)
    assert float(nature.length_loss(rows, torch.zeros(1, 196, dtype=torch.bool))) < 1e-8


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


def test_both_stages_ask_for_it(tmp_path):
    threads = torch.get_num_threads()
    more = {"stop": 2, "natural": True}
    tower.train(tmp_path, steps=2, batch=2, lr=1e-3, local=True, **more)
    language.train(tmp_path, 2, 2, 1e-3, width=64, layers=1, questions=10, **more)
    torch.set_num_threads(threads)
    for name in ("tower", "language"):
        first = json.loads((tmp_path / f"{name}.jsonl").read_text().splitlines()[0])
        assert first["lengths"] > 0
        assert first["looks"] > 0
