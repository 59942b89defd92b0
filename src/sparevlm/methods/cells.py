"""Cutting a picture into k cells of nearly equal size."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor


def middles(n: int, parts: int) -> Tensor:
    """Middle element [parts] of each of `parts` <= n nearly equal runs of 0 .. n - 1."""
    return ((2 * torch.arange(parts) + 1) * n) // (2 * parts)


def owners(n: int, parts: int) -> Tensor:
    """Which of the `middles` is nearest to each of 0 .. n - 1: [n]; of two the later one."""
    middle = middles(n, parts)
    return torch.bucketize(2 * torch.arange(n), middle[1:] + middle[:-1], right=True)


def cells(rows: int, columns: int, k: int) -> tuple[Tensor, Tensor]:
    """Cut a grid into k cells, as square as can be.

    As many rows of cells as the picture's shape asks for, the cells shared out over them as evenly
    as integers allow.

    Returns
    -------
    middle : Tensor [k], int64
        The token in the middle of each cell, ascending.
    owner : Tensor [rows * columns], int64
        The cell of each token.
    """
    # bands rows of cells need k <= bands * columns; beside that, cells should be square
    bands = max(-(-k // columns), min(rows, k, round((k * rows / columns) ** 0.5)))
    first = (torch.arange(bands + 1) * k // bands).tolist()
    shares = [last - begin for begin, last in pairwise(first)]
    line = middles(rows, bands).tolist()
    middle = [row * columns + middles(columns, n) for row, n in zip(line, shares, strict=True)]
    across = [begin + owners(columns, n) for begin, n in zip(first, shares, strict=False)]
    return torch.cat(middle), torch.cat([across[i] for i in owners(rows, bands).tolist()])
