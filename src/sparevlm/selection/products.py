"""Where a greedy loop gets its inner products from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from sparevlm.kernels import usable

from .checks import check_features, working_dtype
from .rows import even_blocks, unit_rows

SMALL_BYTES = 2**20  # features of which a pass costs a CPU less than choosing a block does
_GRAM_BYTES = 256 * 2**20  # of one image on a GPU
PANEL = 192  # rows; products of narrower blocks cost a CPU more than their halves save

Way = Literal["gram", "blocks", "columns", "exact", "given"]


def pairs(rows: Tensor, out: Tensor | None = None) -> Tensor:
    """Inner products of all pairs of rows [N, D]: [N, N].

    On a CPU half of the blocks are mirrored. All blocks have one shape, so that twins round alike
    wherever they lie.
    """
    n = len(rows)
    if rows.device.type != "cpu" or n < 2 * PANEL:
        return torch.mm(rows, rows.T, out=out)
    out = rows.new_empty(n, n) if out is None else out
    parts = even_blocks(n, PANEL)
    for i, top in enumerate(parts):
        for left in parts[i:]:
            block = out[top, left]
            torch.mm(rows[top], rows[left].T, out=block)
            if left is not top:
                out[left, top] = block.T
    return out


def cosine_pairs(features: Tensor) -> Tensor:
    """Cosines of all pairs of rows [N, D]: [N, N], float32 (float64 for float64).

    Raises
    ------
    TypeError, ValueError
        If features are no floating-point tensor of rows, or hold NaN or infinity.
    """
    if features.device.type == "cpu" and not usable(features):
        rows, norms = rows_and_lengths(features)
        if norms is not None:
            # A pass over the pairs is cheaper than one over the features. Of two tokens that cover
            # each other alike, rounding of the diagonal would decide.
            return pairs(rows).div_(torch.outer(norms, norms)).fill_diagonal_(1)
        return pairs(rows)
    return pairs(unit_rows(features))


def rows_and_lengths(features: Tensor) -> tuple[Tensor, Tensor | None]:
    """`checked_rows` and their lengths [N]; `unit_rows` and None where lengths are extreme."""
    check_features(features)
    rows = features.detach().to(working_dtype(features))
    lengths = torch.linalg.vector_norm(rows, dim=1)
    if bool(((lengths > 1e-9) & (lengths < 1e9)).all()):  # of no NaN
        return rows, lengths
    return unit_rows(features), None


def host_way(n: int, d: int, k: int, dtype: torch.dtype, *, compiled: bool) -> Way:
    """What is cheapest on a CPU for picking k of N rows of D.

    Measured on one core: all products run at 150 GFLOP/s, less by half of the mirrored; a column by
    itself reads its features at 20 GB/s; a block of them takes twice as long as its share of all
    products, and one in four of its columns is not asked for. A compiled loop takes 11 billion
    products a second, in float64, after which nothing has to be computed anew: worth the more time
    the larger the share that is kept.
    """
    size = n * d * torch.finfo(dtype).bits // 8
    at_once = 2 * n * n * d / 150e9 * (0.75 if n >= 2 * PANEL else 1)
    small = size <= SMALL_BYTES and not compiled
    one = (10e-6 + size / 20e9) if small else (2 * n * d / 63e9 + 5e-6) * 4 / 3
    if compiled and k * n * d / 11e9 <= (1 + 5 * k / n) * min(at_once, k * one):
        return "exact"
    if at_once <= k * one and n * n <= max(_GRAM_BYTES // 8, n * d):
        return "gram"
    return "columns" if small else "blocks"


def prefer_gram(n: int, dtype: torch.dtype) -> bool:
    """Whether a GPU takes the Gram matrix: at once, unless it is too large.

    A pass is bound by its launch.
    """
    return n * n * torch.finfo(dtype).bits // 8 <= _GRAM_BYTES


class Products(Protocol):
    """Inner products of weighted rows, one token at a time."""

    def write(self, image: int, token: Tensor, out: Tensor) -> None:
        """Put <w_i x_i, w_j x_j> for all tokens i into out [N], j = token [1]."""


class GramProducts:
    """All inner products at once: N^2 D operations and N^2 numbers an image."""

    def __init__(self, rows: list[Tensor], weights: list[Tensor | None]) -> None:
        self._gram = []
        for x, w in zip(rows, weights, strict=True):
            gram = pairs(x)
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
def no_autocast(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Compute with tensors in their own precision in a block, whatever autocast says outside."""
    with ExitStack() as outside:
        for device in {tensor.device.type for tensor in tensors}:
            outside.enter_context(torch.autocast(device, enabled=False))
        yield


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
    before = [(m, value) for m in matmuls if (value := getattr(m, name)) != exact]
    try:
        for m, _ in before:
            setattr(m, name, exact)
        yield
    finally:
        for m, value in before:
            setattr(m, name, value)
