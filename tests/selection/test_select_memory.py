"""Memory and the choice between the Gram matrix and single columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparevlm.selection import products, select

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
def test_columns_need_no_n_by_n_tensor(weighted: bool, tol: float) -> None:
    n, d, k = 2000, 24, 16
    x = gaussian(n, d, seed=1, dtype=torch.float32)
    w = uniform(n, seed=1) if weighted else None
    with LargestTensor(x) as largest:
        select(x, k, weights=w, tol=tol)
    assert 4 * n <= largest.bytes <= 1.1 * 4 * n * k


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
    ("n", "d", "k", "gram"),
    [
        (64, 256, 64, True),
        (576, 4096, 400, True),
        (576, 4096, 64, False),
        (2880, 4096, 160, False),
        (2880, 4096, 2000, True),
    ],
)
def test_gram_when_k_is_near_n(n: int, d: int, k: int, gram: bool) -> None:
    assert products.prefer_gram(n, d, k, torch.float32, CPU) == gram


def test_gpu_takes_the_gram_matrix_unless_it_is_too_large() -> None:
    gpu = torch.device("cuda")
    assert products.prefer_gram(2880, 4096, 16, torch.float32, gpu)
    assert not products.prefer_gram(50_000, 4096, 16, torch.float32, gpu)


def test_both_ways_pick_the_same() -> None:
    x = gaussian(90, 120, seed=4)
    assert products.prefer_gram(90, 120, 60, x.dtype, CPU)
    assert not products.prefer_gram(90, 120, 20, x.dtype, CPU)
    assert torch.equal(select(x, 60).order[:20], select(x, 20).order)
