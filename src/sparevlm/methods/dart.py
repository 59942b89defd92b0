"""DART at the level of embeddings: pivots, and what is least like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.methods.settings import check_count
from sparevlm.selection import checked_rows, unit_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class DART(PickingMethod):
    """Duplication-aware reduction of tokens (arXiv 2502.11494, EMNLP 2025), before the decoder.

    The `pivots` tokens of the largest L1 norm are kept; then each pivot in turn takes its equal
    share of the others, those of the lowest cosine similarity to it that are not taken yet (the
    first pivots take one more where shares are not even). The paper works inside the decoder, after
    two layers, with pivots by the L1 norm of keys, half of them text tokens; this is its idea on
    the features that the decoder gets.

    Parameters
    ----------
    pivots : int
        How many tokens the others are compared with; they count among the k.
    """

    name: ClassVar[str] = "dart"
    paper: ClassVar[str] = "arXiv 2502.11494"

    pivots: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "pivots")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        unit = unit_rows(tokens.features)
        count = min(self.pivots, k)
        norms = checked_rows(tokens.features).abs().sum(1)
        pivots = largest(norms, count)
        likeness = unit[pivots] @ unit.T
        free = torch.ones(len(unit), dtype=torch.bool, device=unit.device)
        free[pivots] = False
        order = [pivots]
        for i in range(count):
            share = (k - count) // count + (i < (k - count) % count)
            least = likeness[i].masked_fill(~free, torch.inf).argsort(stable=True)[:share]
            free[least] = False
            order.append(least)
        return Reduction.picked(torch.cat(order), scores=norms)
