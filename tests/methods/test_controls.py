"""The controls: random tokens and the uniform grid."""

from __future__ import annotations

import pytest
import torch

from sparevlm.methods import AveragePool, DownsampledImage, NoImage, RandomTokens, UniformGrid
from sparevlm.methods.cells import cells
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


@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (9, 5), (1, 20), (20, 1), (2, 2)])
def test_cells_are_compact_and_hold_their_middle(grid):
    n = grid[0] * grid[1]
    for k in range(1, n + 1):
        middle, owner = cells(*grid, k)
        assert owner[middle].tolist() == list(range(k))
        assert owner.bincount(minlength=k).min() >= 1
        for cell in range(k):
            inside = (owner == cell).nonzero()[:, 0]
            rows, columns = inside // grid[1], inside % grid[1]
            area = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
            assert area == (owner == cell).sum()  # a rectangle


def test_average_pool():
    rows = torch.randn(24 * 24, 8, generator=torch.Generator().manual_seed(0))
    found = AveragePool(144).reduce(VisualTokens(rows, (24, 24)))
    pooled = torch.nn.functional.avg_pool2d(rows.T.reshape(1, 8, 24, 24), 2)
    torch.testing.assert_close(found.features, pooled[0].flatten(1).T)
    assert found.indices.equal(UniformGrid(144).reduce(VisualTokens(rows, (24, 24))).indices)


@pytest.mark.parametrize("k", [1, 3, 7, 20])
def test_average_pool_without_a_grid(k):
    rows = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = AveragePool(k).reduce(VisualTokens(rows))
    middle = [(2 * i + 1) * 20 // (2 * k) for i in range(k)]
    groups = [[] for _ in middle]
    for i in range(20):
        nearest = min(range(k), key=lambda c: (abs(middle[c] - i), -c))
        groups[nearest].append(rows[i])
    assert found.indices.tolist() == middle
    if k < 20:
        means = torch.stack([torch.stack(group).mean(0) for group in groups])
        torch.testing.assert_close(found.features, means)


@pytest.mark.parametrize(
    ("k", "size"), [(1, (1, 1)), (2, (1, 2)), (7, (3, 3)), (11, (3, 4)), (12, (3, 4)), (49, (7, 7))]
)
def test_downsampled_image(k, size):
    asked = []

    def encode(rows, columns):
        asked.append((rows, columns))
        return torch.arange(rows * columns, dtype=torch.float32)[:, None].expand(-1, 2)

    seen = VisualTokens(torch.zeros(196, 2), (14, 14), encode=encode)
    found = DownsampledImage(k).reduce(seen)
    assert asked == [size] and len(found.indices) == k
    numbers = found.features[:, 0].long()
    assert numbers.unique().equal(numbers)
    rows, columns = numbers // size[1], numbers % size[1]
    expected = (2 * rows + 1) * 14 // (2 * size[0]) * 14 + (2 * columns + 1) * 14 // (2 * size[1])
    assert found.indices.equal(expected)


def test_downsampling_needs_a_picture():
    with pytest.raises(ValueError, match="encodes the picture anew"):
        DownsampledImage(5).reduce(tokens(4, 4))


def test_no_image():
    found = NoImage().reduce(tokens(4, 4))
    assert found.indices.shape == (0,) and found.indices.dtype == torch.int64
    assert NoImage().budget(tokens(4, 4)) == 0
