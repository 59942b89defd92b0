"""Rows ready to be compared: checked, in the working dtype, of length 1 where asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .checks import bad_row, can_look, check_features, working_dtype

LARGE = 4096
"""Rows up to which a matrix of all pairs is held; beyond, it is made in blocks, time and again."""

_BLOCK = 256
_TOGETHER = 2**26  # bytes that one call works on


def rooms(sizes: Sequence[int], limit: int) -> list[list[int]]:
    """Places of what takes so many bytes each, smallest first, no more than `limit` together."""
    groups: list[list[int]] = []
    held = 0
    for i in sorted(range(len(sizes)), key=sizes.__getitem__):
        if not groups or held + sizes[i] > limit:
            groups.append([])
            held = 0
        groups[-1].append(i)
        held += sizes[i]
    return groups


def in_rooms(features: Sequence[Tensor]) -> list[list[int]]:
    """Places of pictures [N, D] whose rows, and all pairs of them, are not too large together."""
    return rooms([4 * len(x) * (len(x) + x.shape[1]) for x in features], _TOGETHER)


def blocks(n: int, size: int | None = None) -> Iterator[slice]:
    """Runs of rows, one behind the other, whose pairs with all n are held at once."""
    size = _BLOCK if size is None else size
    return (slice(begin, begin + size) for begin in range(0, n, size))


def even_blocks(n: int, size: int) -> list[slice]:
    """Runs of rows of one length, at most `size` or a little more, that cover n; some may overlap.

    Products of blocks of one shape round alike.
    """
    count = max(1, n // size)
    length = min(n, -(-n // (16 * count)) * 16)
    return [slice(i, i + length) for i in (*range(0, n - length, length), n - length)]


def checked_rows(features: Tensor) -> Tensor:
    """Features [N, D] in float32 (float64 for float64).

    Raises
    ------
    TypeError, ValueError
        If features are no floating-point tensor of rows, or hold NaN or infinity.
    """
    check_features(features)
    rows = features.detach().to(working_dtype(features))
    # A norm reads less than a test of every entry; it may overflow where no entry is infinite.
    if not can_look(rows) or bool(torch.linalg.vector_norm(rows, dim=-1).isfinite().all()):
        return rows
    finite = rows.isfinite().all(-1)
    if not bool(finite.all()):
        raise bad_row("row", int(finite.logical_not().nonzero()[0, -1]))
    return rows


def unit_rows(features: Tensor) -> Tensor:
    """`checked_rows` scaled to length 1; zero rows stay zero."""
    rows = checked_rows(features)
    return rows / rows.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
