"""PruMerge and PruMerge+: keep attention outliers, and merge into them what is like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.encoder import AttentionOf, Layer
from sparevlm.methods.cells import middles
from sparevlm.methods.outliers import upper_outliers
from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.methods.settings import check_count, check_flag
from sparevlm.selection import checked_rows, unit_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class PruMerge(PickingMethod):
    """LLaVA-PruMerge (arXiv 2403.15388, ICCV 2025), without fine-tuning.

    Queries and keys of the encoder's last layer, not split into heads, give the class token's
    attention a = softmax(q k^T / sqrt(C)). The tokens of the largest a are kept; to each,
    x_i + sum_j a_j x_j over its `neighbours` nearest others by cosine of keys, before the
    projector. One token more is sum_j a_j x_j over all that were dropped; it counts among the k and
    stands in the place of the last dropped one. A tower without a class token has the attention
    that a token receives in its place.

    Parameters
    ----------
    adaptive : bool
        Keep as many as there are outliers, a_i > Q3 + 1.5 (Q3 - Q1), as the paper does; `keep` is
        then the most that may be kept.
    neighbours : int
        How many others are merged into a kept token.
    """

    name: ClassVar[str] = "prumerge"
    paper: ClassVar[str] = "arXiv 2403.15388"
    keeps: ClassVar[str] = "attention outliers; merges their neighbours into them"
    by_place: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention", "encoder_keys", "projector"})
    merges: ClassVar[bool] = True
    keys_of: ClassVar[Layer] = -1

    adaptive: bool = False
    neighbours: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "adaptive")
        check_count(self, "neighbours")

    @property
    def attention_of(self) -> tuple[AttentionOf, ...]:
        """See `PruningMethod.attention_of`."""
        return (AttentionOf(layer=-1, heads=False),)

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows = checked_rows(tokens.features)
        attention = tokens.attention().mean(0)
        kept = self._kept(attention, k - 1)
        states = checked_rows(tokens.states())
        weighted = states * attention[:, None]
        unit = unit_rows(tokens.keys().flatten(1))
        likeness = unit[kept] @ unit.T
        likeness.scatter_(1, kept[:, None], -torch.inf)  # not itself
        ranked = likeness.argsort(dim=1, descending=True, stable=True)
        near = ranked[:, : min(self.neighbours, len(rows) - 1)]
        merged = states[kept] + weighted[near].sum(1)
        dropped = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        dropped[kept] = False
        rest = weighted[dropped].sum(0, keepdim=True)
        last = dropped.nonzero()[-1:, 0]
        features = tokens.project(torch.cat([merged, rest]))
        return Reduction.picked(torch.cat([kept, last]), features, scores=attention)

    def _kept(self, attention: Tensor, most: int) -> Tensor:
        """At most `most` tokens to keep."""
        wanted = int(upper_outliers(attention).sum()) if self.adaptive else most
        return largest(attention, min(wanted, most))


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge+ (arXiv 2403.15388, ICCV 2025), without fine-tuning.

    As `PruMerge`, but half of the kept tokens (rounded down) are a spatially uniform sample of
    those that attention did not pick. With `adaptive`, the sample is every s-th token, s a third of
    one over the share of outliers, less those picked already.

    Parameters
    ----------
    adaptive : bool
        Keep as many as the outliers ask for; `keep` is then the most that may be kept.
    """

    name: ClassVar[str] = "prumerge+"
    keeps: ClassVar[str] = "attention outliers and a uniform sample; merges the rest into them"
    by_place: ClassVar[bool] = True

    def _kept(self, attention: Tensor, most: int) -> Tensor:
        n = len(attention)
        wanted = int(upper_outliers(attention).sum()) if self.adaptive else most - most // 2
        salient = largest(attention, min(wanted, most))
        room = most - len(salient)
        if self.adaptive:
            step = max(1, int(n / max(wanted, 1)) // 3)
            spread = torch.arange(0, n - 1, step, device=attention.device)
        else:
            spread = torch.arange(n, device=attention.device)
        spread = spread[~torch.isin(spread, salient)]
        if len(spread) > room:
            spread = spread[middles(len(spread), room).to(spread.device)]
        return torch.cat([salient, spread])
