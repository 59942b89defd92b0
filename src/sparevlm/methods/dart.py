"""DART at the level of embeddings: pivots, and what is least like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.methods.settings import check_count
from sparevlm.selection import checked_rows, unit_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class DART(PickingMethod):
    """Duplication-aware reduction of tokens (arXiv 2502.11494, EMNLP 2025), before the decoder.

    The `pivots` tokens of the largest L1 norm are kept; then each pivot in turn, the largest first,
    takes its equal share of the others, those of the lowest cosine similarity to it that are not
    taken yet (the first pivots take one more where shares are not even). The paper works inside the
    decoder, after two layers, with pivots by the L1 norm of keys, half of them text tokens; this is
    its idea on the features that the decoder gets. In the authors' program pivots take turns in the
    order in which a Python set gives their places in the prompt, so that what is kept of a picture
    depends on how many words are before it; ours does not follow that, and keeps the same tokens as
    theirs where both take turns in one order.

    Parameters
    ----------
    pivots : int
        How many tokens the others are compared with; they count among the k.
    """

    name: ClassVar[str] = "dart"
    paper: ClassVar[str] = "arXiv 2502.11494"
    keeps: ClassVar[str] = "what is least like a few pivots"

    pivots: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "pivots")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        count = min(self.pivots, k)
        norms = checked_rows(tokens.features).abs().sum(1)
        pivots = largest(norms, count)
        unit = unit_rows(tokens.features)
        rest = least_alike(unit[pivots] @ unit.T, pivots, k - count)
        return Reduction.picked(torch.cat((pivots, rest)), scores=norms)


def least_alike(likeness: Tensor, taken: Tensor, k: int) -> Tensor:
    """Let each pivot in turn take its equal share of k tokens, those least like it.

    Parameters
    ----------
    likeness : Tensor [P, N]
        Of P pivots and all tokens.
    taken : Tensor [T], int64
        Tokens that cannot be taken.
    k : int
        At most N - T; the first pivots take one more where shares are not even.

    Returns
    -------
    Tensor [k], int64
        In the order taken.
    """
    pivots, n = likeness.shape
    free = torch.ones(n, dtype=torch.bool, device=likeness.device)
    free[taken] = False
    order = []
    for i in range(pivots):
        share = k // pivots + (i < k % pivots)
        least = likeness[i].masked_fill(~free, torch.inf).argsort(stable=True)[:share]
        free[least] = False
        order.append(least)
    return torch.cat(order)
