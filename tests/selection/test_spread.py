"""Tokens far apart in direction, whichever products are taken."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sparevlm.selection import spread_each

from .data import gaussian

MODULES = ("sparevlm.selection.products", "sparevlm.selection.host_spread")


@pytest.fixture(autouse=True, params=[6, 1000], ids=["of some", "of all"])
def products(request, monkeypatch):
    """Of a third of the tokens and of those that may be isolated, or of all pairs at once."""
    for module in MODULES:
        monkeypatch.setattr(f"{module}.PANEL", request.param)


def literally(features, k):
    rows = features.double().numpy()
    lengths = np.linalg.norm(rows, axis=1)
    unit = rows / np.where(lengths > 0, lengths, 1)[:, None]
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    nearest = distance.min(1)
    picks = [int((nearest >= nearest.max() - 1e-6).argmax())]
    far = np.full(len(rows), np.inf)
    while len(picks) < k:
        far = np.minimum(far, distance[picks[-1]])
        far[picks] = -np.inf
        picks.append(int(far.argmax()))
    return picks


def clusters(n, d, seed, groups=5):
    centres = gaussian(groups, d, seed=seed, dtype=torch.float32) * 3
    around = gaussian(n, d, seed=seed + 1, dtype=torch.float32)
    return centres[torch.arange(n) * 7 % groups] + around


def outlier(n, d, seed):
    """Everything in one direction, but for a token that the first third does not hold."""
    rows = torch.ones(n, d) + gaussian(n, d, seed=seed, dtype=torch.float32) / 2
    rows[min(n // 3 * 2 + 1, n - 1)] = gaussian(1, d, seed=seed + 1, dtype=torch.float32)
    return rows


@pytest.mark.parametrize("make", [
    lambda n, d, seed: gaussian(n, d, seed=seed, dtype=torch.float32), clusters, outlier,
])  # fmt: skip
@pytest.mark.parametrize("n, d", [(1, 3), (2, 5), (13, 8), (60, 16), (241, 48)])
def test_is_what_all_distances_give(make, n, d):
    features = make(n, d, n)
    for k in (1, max(1, n // 4), n):
        (order,) = spread_each([features], [k])
        assert order.tolist() == literally(features, k)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_lengths_do_not_count(dtype):
    features = gaussian(90, 24, seed=1, dtype=torch.float32).bfloat16()
    (wanted,) = spread_each([features.to(dtype)], [30])
    powers = 2.0 ** torch.arange(90).remainder(7)
    assert torch.equal(spread_each([(features * powers[:, None]).to(dtype)], [30])[0], wanted)
    for extreme in (2.0**60, 2.0**-60):
        far = features.to(dtype) * extreme
        assert torch.equal(spread_each([far], [30])[0], wanted)


def test_twins_go_to_the_lowest_index():
    """A still video: its first frame is kept."""
    one = gaussian(40, 16, seed=2, dtype=torch.float32)
    (found,) = spread_each([one.repeat(3, 1)], [40])
    assert torch.equal(found.sort().values, torch.arange(40))


@pytest.mark.parametrize("n", [3, 40])
def test_a_blank_picture(n):
    for features in (torch.ones(n, 4) * 3, torch.zeros(n, 4)):
        assert spread_each([features], [n])[0].tolist() == list(range(n))


def test_zero_rows_are_far_from_everything():
    features = clusters(60, 16, 3)
    features[[7, 31]] = 0
    (order,) = spread_each([features], [20])
    assert order.tolist() == literally(features, 20)
    assert {7, 31} <= set(order.tolist())


def test_several_pictures_are_their_singles():
    pictures = [gaussian(n, 8, seed=n, dtype=torch.float32) for n in (20, 61, 20, 5)]
    ks = [4, 61, 9, 7]
    for found, x, k in zip(spread_each(pictures, ks), pictures, ks, strict=True):
        assert torch.equal(found, spread_each([x], [k])[0])


def test_autocast_changes_nothing():
    features = clusters(90, 32, 4)
    (wanted,) = spread_each([features], [40])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(spread_each([features], [40])[0], wanted)


def test_bad_input():
    bad = torch.ones(5, 3)
    bad[2, 1] = torch.nan
    with pytest.raises(ValueError, match="row 2"):
        spread_each([bad], [2])
    with pytest.raises(ValueError, match="positive integer"):
        spread_each([torch.ones(5, 3)], [0])
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        spread_each([np.ones((5, 3))], [1])
