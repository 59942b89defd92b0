"""HiPrune: objects from a middle layer, their neighbours, and the whole picture from a late one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.budgets import is_integer
from sparevlm.encoder import AttentionOf
from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.methods.settings import check_number
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class HiPrune(PickingMethod):
    """Hierarchical attention pruning (arXiv 2508.00553).

    Anchors: the round(alpha k / 5) tokens that receive the most attention in a middle layer
    (averaged over heads and all queries). Buffers: the tokens before, after, above and below each
    anchor, counted along the sequence and held within it, as in the authors' program. Registers:
    what receives the most attention in the layer that the projector reads, until there are k.
    Without a grid the buffers above and below are missing.

    Parameters
    ----------
    alpha : float
        Share of the k tokens that anchors and buffers may take, in [0, 1].
    middle : int or float
        Index of the middle layer, or its share of the depth: 1/3 is the ninth of 24.
    """

    name: ClassVar[str] = "hiprune"
    paper: ClassVar[str] = "arXiv 2508.00553"
    keeps: ClassVar[str] = (
        "objects of a middle layer, their neighbours, and what a late layer attends to"
    )
    by_place: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention"})

    alpha: float = 0.1
    middle: int | float = 1 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", lambda a: 0 <= a <= 1, "from 0 to 1")
        if not is_integer(self.middle):
            words = "from 0 to below 1, a share of the depth, or the index of a layer"
            check_number(self, "middle", lambda share: 0 <= share < 1, words)

    @property
    def attention_of(self) -> tuple[AttentionOf, ...]:
        """See `PruningMethod.attention_of`."""
        return AttentionOf(self.middle, "received"), AttentionOf(row="received")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        n = len(checked_rows(tokens.features))
        middle, late = tokens.attention(0).mean(0), tokens.attention(1).mean(0)
        anchors = largest(middle, round(k * self.alpha / 5))
        steps = [0, -1, 1]
        if tokens.grid is not None:
            steps += [-tokens.grid[1], tokens.grid[1]]
        beside = torch.cat([(anchors + step).clamp(0, n - 1) for step in steps])
        places = torch.arange(len(beside), device=beside.device)
        first = torch.full((n,), len(beside), device=beside.device)
        first = first.scatter_reduce(0, beside, places, "amin")  # where each token comes first
        local = first.argsort(stable=True)[: min(k, int((first < len(beside)).sum()))]
        rest = late.index_fill(0, local, -torch.inf)
        order = torch.cat([local, largest(rest, k - len(local))])
        return Reduction.picked(order, scores=late)
