"""AgilePruner: attention decides, and a distance that grows the faster the richer the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.methods.settings import check_number
from sparevlm.selection import checked_rows, unit_rows
from sparevlm.tokens import Reduction, VisualTokens

_STEP = 0.01  # of a threshold, from one rank to the next


@dataclass(frozen=True)
class AgilePruner(PickingMethod):
    """Attention-led in simple pictures, diversity-led in rich ones (arXiv 2603.01236, ICLR 2026).

    Tokens come in the order of the class token's attention (mean over heads, the layer that the
    projector reads). A token that is kept removes all whose cosine distance to it is below
    tau_i = 0.01 i e / e_avg, at most tau_max: i is its place in that order, from 1 on, e the
    effective rank of the picture's tokens, exp of the entropy of their singular values as shares
    of their sum. There is no public program, and what we could read (the authors' page) gives this
    rule, but not e_avg, the mean of e over data, nor tau_max, nor whose distances and rank these
    are, nor what is kept where too few are left. Ours are those of encoder states; e counts as a
    share of the most it can be, and e_avg is what we measured on the pocket model's scenes: other
    models need their own; removed tokens come back in the order of attention. A tower without a
    class token has the attention that a token receives in its place.

    Parameters
    ----------
    mean_rank : float
        e_avg, as a share of the smaller of the number of tokens and their width.
    most : float
        tau_max, from 0 (attention alone) to 2.
    """

    name: ClassVar[str] = "agilepruner"
    paper: ClassVar[str] = "arXiv 2603.01236"
    keeps: ClassVar[str] = (
        "what the class token looks at, and the farther apart the richer the picture"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention", "projector"})
    nested: ClassVar[bool] = True

    mean_rank: float = 0.17
    most: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "mean_rank", lambda a: 0 < a <= 1, "above 0 and at most 1")
        check_number(self, "most", lambda m: 0 <= m <= 2, "from 0 to 2")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        checked_rows(tokens.features)
        states = checked_rows(tokens.states())
        scores = tokens.attention().mean(0)
        ranked = largest(scores, len(scores))
        unit = unit_rows(states)[ranked]
        richness = effective_rank(states) / (min(states.shape) * self.mean_rank)
        places = torch.arange(len(ranked), device=states.device)
        thresholds = (_STEP * (places + 1) * richness).clamp(max=self.most)
        return Reduction.picked(ranked[_far(unit, thresholds, k)], scores=scores)


def effective_rank(rows: Tensor) -> Tensor:
    """Effective rank of rows [N, D], from 1 to min(N, D): a number on their device.

    exp of the entropy of the singular values as shares of their sum (Roy and Vetterli 2007).
    """
    values = torch.linalg.svdvals(rows)
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    return torch.special.entr(shares).sum().exp()


def _far(unit: Tensor, thresholds: Tensor, k: int) -> Tensor:
    """The first k rows that none before them removed; then the first of the removed: [k].

    unit [N, D], of length 1, best first; thresholds [N], below which each removes others.
    """
    n = len(unit)
    costs = torch.arange(n, device=unit.device)  # + n once removed, + 2n once kept
    picked = []
    for _ in range(k):
        best = costs.argmin()
        picked.append(best)
        near = (1 - unit @ unit[best]) < thresholds[best]
        costs = torch.where(near & (costs < n), costs + n, costs)
        costs = costs.index_fill(0, best[None], 3 * n)
    return torch.stack(picked)
