"""Where a greedy loop gets its inner products from."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

_GRAM_BYTES = 256 * 2**20  # of one image on a GPU
_CACHE_BYTES = 16 * 2**20  # features that a CPU's shared cache still holds


def prefer_gram(n: int, d: int, k: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the Gram matrix is cheaper than one pass over the features a step.

    A GPU does the N^2 D products at once, and a pass is bound by its launch: Gram unless it is too
    large. A CPU's pass is bound by memory. Measured on one core (Zen 5, N = 49 .. 5000, D = 128 ..
    4096, both dtypes) the two cost the same at N / k = 2.5 .. 4 while the features fit the cache,
    and at 8 .. 10 beyond. The answer does not depend on the batch: a batch must round like singles.
    """
    size = torch.finfo(dtype).bits // 8
    if device.type != "cpu":
        return n * n * size <= _GRAM_BYTES
    return n <= (3 if n * d * size <= _CACHE_BYTES else 8) * k


class Products(Protocol):
    """Inner products of weighted rows, one token at a time."""

    def write(self, image: int, token: Tensor, out: Tensor) -> None:
        """Put <w_i x_i, w_j x_j> for all tokens i into out [N], j = token [1]."""


class GramProducts:
    """All inner products at once: N^2 D operations and N^2 numbers an image."""

    def __init__(self, rows: list[Tensor], weights: list[Tensor | None]) -> None:
        self._gram = []
        for x, w in zip(rows, weights, strict=True):
            gram = x @ x.T
            if w is not None:
                gram.mul_(w).mul_(w[:, None])
            self._gram.append(gram)

    def write(self, image: int, token: Tensor, out: Tensor) -> None:
        """See `Products`."""
        out.copy_(self._gram[image].index_select(0, token)[0])


class ColumnProducts:
    """One pass over the features a step: N D operations a step and no N^2 memory."""

    def __init__(self, rows: list[Tensor], weights: list[Tensor | None]) -> None:
        self._rows = rows
        self._weights = weights

    def write(self, image: int, token: Tensor, out: Tensor) -> None:
        """See `Products`."""
        x, w = self._rows[image], self._weights[image]
        row = x.index_select(0, token)[0]
        if w is None:
            torch.mv(x, row, out=out)
        else:
            torch.mv(x, row.mul_(w.index_select(0, token)), out=out)
            out.mul_(w)


@contextmanager
def full_precision() -> Iterator[None]:
    """Keep TF32 and bf16 matrix products, which a user may have switched on, out of a block."""
    cuda: Any = torch.backends.cuda
    mkldnn: Any = torch.backends.mkldnn  # matmul is missing from its annotations
    matmuls = [cuda.matmul, mkldnn.matmul]
    name: str = "fp32_precision"
    exact: str | bool = "ieee"
    if not hasattr(matmuls[0], name):  # torch < 2.9
        matmuls, name, exact = matmuls[:1], "allow_tf32", False
    before = [getattr(m, name) for m in matmuls]
    try:
        for m in matmuls:
            setattr(m, name, exact)
        yield
    finally:
        for m, value in zip(matmuls, before, strict=True):
            setattr(m, name, value)
