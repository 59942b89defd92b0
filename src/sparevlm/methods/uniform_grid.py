"""Evenly spaced tokens: the control that knows nothing but the picture's geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.cells import cells, middles
from sparevlm.methods.picking import PickingMethod
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class UniformGrid(PickingMethod):
    """Keep exactly k tokens spread evenly over the picture.

    The k tokens lie in the middle of k cells of nearly equal size: as many rows of cells as the
    picture's shape asks for, the cells shared out over them as evenly as integers allow. Without a
    grid, or with separators in it, they are spread evenly over the sequence of candidates.
    """

    name: ClassVar[str] = "uniform"
    paper: ClassVar[str] = "control"
    keeps: ClassVar[str] = "tokens spread evenly over the picture"
    by_place: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        n = len(checked_rows(tokens.features))
        chosen = middles(n, k) if tokens.grid is None else cells(*tokens.grid, k)[0]
        return Reduction(indices=chosen.to(tokens.features.device))
