"""The controls: random tokens and the uniform grid."""

from __future__ import annotations

import pytest
import torch

from sparevlm.methods import RandomTokens, UniformGrid
from sparevlm.tokens import VisualTokens


def tokens(rows, columns):
    return VisualTokens(torch.zeros(rows * columns, 2), (rows, columns))


def test_random_draws_are_seeded_and_nested():
    seen = tokens(14, 14)
    first = RandomTokens(20, seed=1).reduce(seen).order
    assert first.equal(RandomTokens(20, seed=1).reduce(seen).order)
    assert not first.equal(RandomTokens(20, seed=2).reduce(seen).order)
    assert RandomTokens(7, seed=1).reduce(seen).order.equal(first[:7])


def test_random_draws_do_not_touch_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    RandomTokens(3, seed=9).reduce(tokens(4, 4))
    assert torch.equal(torch.rand(3), expected)


def test_random_draws_are_uniform():
    seen, counts = tokens(4, 5), torch.zeros(20)
    for seed in range(2000):
        counts[RandomTokens(5, seed=seed).reduce(seen).indices] += 1
    assert float((counts - 500).abs().max()) < 100  # five standard deviations


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0", 2**63])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="seed must be an integer"):
        RandomTokens(3, seed=seed)


@pytest.mark.parametrize("grid", [(1, 1), (14, 14), (24, 24), (3, 50), (50, 3), (1, 30)])
def test_uniform_keeps_exactly_k_for_every_k(grid):
    n = grid[0] * grid[1]
    for k in range(1, n + 1):
        found = UniformGrid(k).reduce(tokens(*grid)).indices
        assert len(found.unique()) == k and found.equal(found.sort().values)


def test_uniform_squares():
    found = UniformGrid(16).reduce(tokens(8, 8)).indices
    rows, columns = found // 8, found % 8
    assert rows.unique().tolist() == [1, 3, 5, 7] == columns.unique().tolist()


@pytest.mark.parametrize("k", [4, 11, 16, 30, 49])
def test_uniform_leaves_no_large_gap(k):
    found = UniformGrid(k).reduce(tokens(14, 14)).indices
    every = torch.stack([torch.arange(196) // 14, torch.arange(196) % 14], 1).float()
    nearest = torch.cdist(every, every[found]).min(1).values
    assert float(nearest.max()) <= 1.6 * (196 / k) ** 0.5


def test_uniform_without_a_grid():
    found = UniformGrid(5).reduce(VisualTokens(torch.zeros(20, 2))).indices
    assert found.tolist() == [2, 6, 10, 14, 18]
