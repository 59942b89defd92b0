"""Evenly spaced tokens: the control that knows nothing but the picture's geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.base import PruningMethod
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class UniformGrid(PruningMethod):
    """Keep exactly k tokens spread evenly over the picture.

    The k tokens lie in the middle of k cells of nearly equal size: as many rows of cells as the
    picture's shape asks for, the cells shared out over them as evenly as integers allow. Without a
    grid, or with separators in it, they are spread evenly over the sequence of candidates.
    """

    name: ClassVar[str] = "uniform"
    paper: ClassVar[str] = "control"

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """See `PruningMethod.reduce`."""
        candidates, k = tokens.candidate_indices(), self.budget(tokens)
        n = len(candidates)
        if tokens.grid is not None and n == len(tokens):
            chosen = _cells(*tokens.grid, k)
        else:
            chosen = _middles(n, k)
        return Reduction(indices=candidates[chosen.to(candidates.device)])


def _middles(n: int, parts: int) -> Tensor:
    """Middle element [parts] of each of `parts` <= n nearly equal runs of 0 .. n - 1."""
    return ((2 * torch.arange(parts) + 1) * n) // (2 * parts)


def _cells(rows: int, columns: int, k: int) -> Tensor:
    # bands rows of cells need k <= bands * columns; beside that, cells should be square
    bands = max(-(-k // columns), min(rows, k, round((k * rows / columns) ** 0.5)))
    shares = torch.diff(torch.arange(bands + 1) * k // bands).tolist()
    middle = _middles(rows, bands).tolist()
    kept = [row * columns + _middles(columns, n) for row, n in zip(middle, shares, strict=True)]
    return torch.cat(kept)
