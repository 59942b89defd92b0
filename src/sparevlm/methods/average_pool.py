"""Pooled tokens: the control that averages neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.cells import cells, middles, owners
from sparevlm.methods.picking import PickingMethod
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class AveragePool(PickingMethod):
    """Cut the picture into k cells, and put the mean of each cell in the place of its middle token.

    The cells are those of `UniformGrid`: for k = 144 of 24 x 24 tokens, pooling by 2 x 2.
    """

    name: ClassVar[str] = "average-pool"
    paper: ClassVar[str] = "control"
    keeps: ClassVar[str] = "means of equal cells"
    by_place: ClassVar[bool] = True
    merges: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows = checked_rows(tokens.features)
        if tokens.grid is None:
            middle, owner = middles(len(rows), k), owners(len(rows), k)
        else:
            middle, owner = cells(*tokens.grid, k)
        owner = owner.to(rows.device)
        means = rows.new_zeros(k, rows.shape[1]).index_add_(0, owner, rows)
        means /= owner.bincount(minlength=k)[:, None]
        return Reduction(indices=middle.to(rows.device), features=means)
