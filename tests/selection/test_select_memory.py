"""Memory and the choice between the Gram matrix, blocks of columns, and single columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparevlm.selection import products, select
from sparevlm.selection.host_products import HostBlocks

from .data import gaussian, uniform

CPU = torch.device("cpu")


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest storage that an operation gave, the inputs' own aside."""

    def __init__(self, *inputs: torch.Tensor) -> None:
        super().__init__()
        self.bytes = 0
        self.known = {tensor.untyped_storage().data_ptr() for tensor in inputs}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in self.known:
                    self.bytes = max(self.bytes, storage.nbytes())
        return found


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("tol", [0.0, 0.01])
def test_columns_need_no_n_by_n_tensor(weighted: bool, tol: float, loops: str) -> None:
    n, d, k = 2000, 24, 16
    check_memory(n, d, k, weighted, tol, loops)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_need_no_n_by_n_tensor(weighted: bool, loops: str) -> None:
    check_memory(4000, 80, 100, weighted, 0.0, loops)


def check_memory(n: int, d: int, k: int, weighted: bool, tol: float, loops: str) -> None:
    entry = 8 if loops == "compiled" else 4  # those may work in float64
    x = gaussian(n, d, seed=1, dtype=torch.float32)
    w = uniform(n, seed=1) if weighted else None
    with LargestTensor(x) as largest:
        select(x, k, weights=w, tol=tol)
    assert 4 * n <= largest.bytes <= 1.1 * entry * n * k


def test_gram_does_need_one() -> None:
    x = gaussian(200, 24, seed=2, dtype=torch.float32)
    with LargestTensor(x) as largest:
        select(x, 150)
    assert largest.bytes >= 4 * 200 * 200


def test_features_are_not_copied() -> None:
    n, d, k = 300, 512, 4
    x = gaussian(n, d, seed=3, dtype=torch.float32)
    with LargestTensor(x) as largest:
        select(x, k)
    assert largest.bytes < 4 * n * d / 4


@pytest.mark.parametrize(
    ("n", "d", "k", "way", "compiled_way"),
    [
        (64, 256, 64, "gram", "gram"),
        (576, 4096, 400, "gram", "gram"),
        (576, 4096, 64, "blocks", "blocks"),
        (2880, 4096, 160, "blocks", "blocks"),
        (2880, 4096, 2000, "gram", "gram"),
        (196, 256, 65, "gram", "exact"),
        (196, 256, 98, "gram", "exact"),
        (576, 512, 288, "gram", "gram"),
        (196, 256, 12, "gram", "exact"),
        (196, 256, 4, "columns", "exact"),
        (256, 2048, 32, "blocks", "blocks"),
        (16384, 4096, 1024, "blocks", "blocks"),
    ],
)
def test_way_to_products(n: int, d: int, k: int, way: str, compiled_way: str) -> None:
    f32 = torch.float32
    assert products.host_way(n, d, k, f32, compiled=False) == way
    assert products.host_way(n, d, k, f32, compiled=True) == compiled_way


def test_gpu_takes_the_gram_matrix_unless_it_is_too_large() -> None:
    assert products.prefer_gram(2880, torch.float32)
    assert not products.prefer_gram(50_000, torch.float32)


def test_all_ways_pick_the_same() -> None:
    x = gaussian(600, 500, seed=4)
    found = [select(x, k).order[:20] for k in (20, 400)]
    assert all(torch.equal(order, select(x[:, :500].float(), 20).order) for order in found)


@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_give_any_column_in_any_order(weighted: bool) -> None:
    """Also those it did not expect, more of them than it holds, and one it has given before."""
    n, d = 150, 40
    x, w = gaussian(n, d, seed=5), uniform(n, seed=5) if weighted else None
    given_out = HostBlocks(x, w)
    scaled = x if w is None else x * w[:, None]
    generator = torch.Generator().manual_seed(6)
    for _ in range(400):
        token = int(torch.randint(n, (1,), generator=generator))
        value = torch.rand(n, generator=generator, dtype=x.dtype)
        out = torch.empty(n, dtype=x.dtype)
        given_out.write(token, value.numpy(), out.numpy())
        assert torch.allclose(out, scaled @ scaled[token], rtol=1e-12, atol=1e-12)


def test_blocks_read_the_features_few_times() -> None:
    """Three in four of the columns that a product gives are asked for."""
    x = gaussian(1500, 300, seed=7, dtype=torch.float32)
    with Products() as seen:
        select(x, 96)
    assert seen.columns <= 96 * 4 / 3
    assert seen.count <= 96 / 10


class Products(TorchDispatchMode):
    """Counts matrix products, and the columns they give."""

    count = columns = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default:
            self.count += 1
            self.columns += len(found)
        return found
