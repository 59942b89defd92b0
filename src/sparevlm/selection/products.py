"""Where a greedy loop gets its inner products from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

_GRAM_BYTES = 256 * 2**20  # of one image on a GPU
_BLOCK = 16  # columns that one product of a CPU computes
_HELD = 4 * _BLOCK  # columns held for later steps
_SMALL_BYTES = 2**20  # features of which a pass costs a CPU less than choosing a block does


def products_for(
    rows: list[Tensor], weights: list[Tensor | None], k: int
) -> GramProducts | ColumnProducts | BlockProducts:
    """What is cheapest for picking k of the rows [N, D] of every image."""
    if prefer_gram(len(rows[0]), k, rows[0].dtype, rows[0].device):
        return GramProducts(rows, weights)
    if rows[0].device.type == "cpu" and rows[0].nbytes > _SMALL_BYTES:
        return BlockProducts(rows, weights)
    return ColumnProducts(rows, weights)


def prefer_gram(n: int, k: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the Gram matrix is cheaper than products a step or a few steps.

    A GPU does the N^2 D products at once, and a pass is bound by its launch: Gram unless it is too
    large. A CPU's blocks of columns cost about as much each as the Gram matrix's, and are at most
    1.7 times as many as are needed. The answer does not depend on the batch: a batch must round
    like singles.
    """
    if device.type != "cpu":
        return n * n * torch.finfo(dtype).bits // 8 <= _GRAM_BYTES
    return n <= 2 * k


def prefer_gram_of_small(n: int, d: int, k: int) -> bool:
    """The same for an image that one loop takes with others: N D products are cheap at once.

    Measured on one core: 150 GFLOP/s all at once; one column takes 10 us, and reads its features
    at 20 GB/s.
    """
    return 2 * n * n * d / 150e9 <= k * (10e-6 + 4 * n * d / 20e9)


class Products(Protocol):
    """Inner products of weighted rows, one token at a time."""

    def write(self, image: int, token: Tensor, value: Tensor, out: Tensor) -> None:
        """Put <w_i x_i, w_j x_j> for all tokens i into out [N], j = token [1].

        value [N] tells which tokens are likely to be asked for next: those of the largest.
        """


class GramProducts:
    """All inner products at once: N^2 D operations and N^2 numbers an image."""

    def __init__(self, rows: list[Tensor], weights: list[Tensor | None]) -> None:
        self._gram = []
        for x, w in zip(rows, weights, strict=True):
            gram = x @ x.T  # by panels, of which half are mirrored, twins would round apart
            if w is not None:
                gram.mul_(w).mul_(w[:, None])
            self._gram.append(gram)

    def write(self, image: int, token: Tensor, value: Tensor, out: Tensor) -> None:
        """See `Products`."""
        out.copy_(self._gram[image].index_select(0, token)[0])


class ColumnProducts:
    """One pass over the features a step: N D operations a step and no N^2 memory."""

    def __init__(self, rows: list[Tensor], weights: list[Tensor | None]) -> None:
        self._rows = rows
        self._weights = weights

    def write(self, image: int, token: Tensor, value: Tensor, out: Tensor) -> None:
        """See `Products`."""
        x, w = self._rows[image], self._weights[image]
        row = x.index_select(0, token)[0]
        if w is None:
            torch.mv(x, row, out=out)
        else:
            torch.mv(x, row.mul_(w.index_select(0, token)), out=out)
            out.mul_(w)


class BlockProducts:
    """Products of the tokens likely to be picked next, some at a time: right on a CPU.

    One pass over the features for 16 tokens takes less than twice as long as for one of them in
    memory's terms, and three in four of them are asked for later: a token's residual seldom falls
    far from one step to the next.
    """

    def __init__(self, rows: list[Tensor], weights: list[Tensor | None]) -> None:
        self._rows, self._weights = rows, weights
        n = len(rows[0])
        self._held = [x.new_empty(min(_HELD, n), n) for x in rows]
        self._places: list[dict[int, int]] = [{} for _ in rows]  # of held columns, by token

    def write(self, image: int, token: Tensor, value: Tensor, out: Tensor) -> None:
        """See `Products`."""
        places, wanted = self._places[image], int(token)
        if wanted not in places:
            self._fetch(image, wanted, value)
        out.copy_(self._held[image][places.pop(wanted)])

    def _fetch(self, image: int, token: int, value: Tensor) -> None:
        x, w = self._rows[image], self._weights[image]
        held, places = self._held[image], self._places[image]
        hope = value.clone()
        hope[list(places)] = 0
        hope[token] = torch.inf
        best = hope.topk(min(_BLOCK, len(held)))
        fetched = best.indices[best.values > 0]  # `token` comes first
        rows = x[fetched]
        if w is not None:
            rows.mul_(w[fetched, None])
        columns = rows @ x.T
        if w is not None:
            columns.mul_(w)
        for worst in sorted(places, key=value.tolist().__getitem__):
            if len(held) - len(places) >= len(fetched):
                break
            del places[worst]
        free = sorted(set(range(len(held))) - set(places.values()))[: len(fetched)]
        held[free] = columns
        places.update(zip(fetched.tolist(), free, strict=True))


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
