"""VisPruner: important tokens by attention, diverse ones by removing near-duplicates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.methods.settings import check_count, check_number
from sparevlm.selection import blocks, checked_rows, unit_rows
from sparevlm.tokens import Reduction, VisualTokens

# Tokens up to which all products are held; the authors' program takes those of each round anew,
# which gives the same. Of more, each token has a list of those most like it instead.
_DIRECT = 1024
_LISTED = 64


@dataclass(frozen=True)
class VisPruner(PickingMethod):
    """Visual cues from the encoder (arXiv 2412.01818v2, ICCV 2025).

    int(important k) tokens of the largest class-token attention (mean over heads, the layer that
    the projector reads); the rest by removing near-duplicates from what is left: put it in
    the order of attention, split it into even and odd places, drop the `per_round` even ones that
    are most similar (cosine of encoder states) to an odd one, put the others in the order of that
    similarity before the odd ones, and again until enough are gone. A tower without a class token
    has the attention that a token receives in its place.

    Parameters
    ----------
    important : float
        Share of the k tokens that attention picks, in [0, 1].
    per_round : int
        Near-duplicates dropped at once.
    """

    name: ClassVar[str] = "vispruner"
    paper: ClassVar[str] = "arXiv 2412.01818v2"
    keeps: ClassVar[str] = "half by class attention, half by removing near-duplicates"
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention", "projector"})

    important: float = 0.5
    per_round: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "important", lambda r: 0 <= r <= 1, "from 0 to 1")
        check_count(self, "per_round")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        checked_rows(tokens.features)
        scores = tokens.attention().mean(0)
        ranked = largest(scores, len(scores))
        first, rest = ranked.tensor_split([int(k * self.important)])
        diverse = self._unlike(unit_rows(tokens.states()), rest, k - len(first))
        return Reduction(torch.cat([first, diverse]).sort().values, scores=scores)

    def _unlike(self, unit: Tensor, left: Tensor, k: int) -> Tensor:
        """Drop near-duplicates from tokens `left` [m] until k remain."""
        if len(left) > max(k, _DIRECT):
            left = self._rounds(left, k, max(k, _DIRECT), _Lists(unit).most_like)
        rows = unit[left]
        products = rows @ rows.T

        def most_like(even: Tensor, odd: Tensor) -> Tensor:
            return products.index_select(0, even).index_select(1, odd).amax(1)

        places = torch.arange(len(left), device=left.device)
        return left[self._rounds(places, k, k, most_like)]

    def _rounds(
        self, left: Tensor, k: int, stop: int, most_like: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Drop from `left` [m], of which k are to remain, until there are no more than `stop`."""
        while len(left) > stop:
            even, odd = left[::2], left[1::2]
            if not len(odd):
                return left[:k]
            likeness = most_like(even, odd)
            drop = min(self.per_round, len(left) - k)
            # Not a stable sort, and not put back into order, as in the authors' program: what comes
            # out where decides all later splits.
            left = torch.cat([even[likeness.argsort(descending=True)[drop:]], odd])
        return left


class _Lists:
    """Of each row [N, D], of length 1, the rows most like it: what a matrix of all pairs says."""

    def __init__(self, unit: Tensor) -> None:
        self._unit = unit
        parts = [(unit[some] @ unit.T).topk(min(_LISTED, len(unit))) for some in blocks(len(unit))]
        self._values = torch.cat([part.values for part in parts])
        self._tokens = torch.cat([part.indices for part in parts])

    def most_like(self, even: Tensor, odd: Tensor) -> Tensor:
        """How like each row of `even` [m] the one of `odd` is that is most like it: [m]."""
        is_odd = torch.zeros(len(self._unit), dtype=torch.bool, device=even.device)
        is_odd[odd] = True
        met = is_odd[self._tokens[even]]
        first = met.long().argmax(1, keepdim=True)
        likeness = self._values[even].gather(1, first)[:, 0]
        missed = (~met.any(1)).nonzero()[:, 0]  # none of them is on the list
        for some in missed.split(256):
            likeness[some] = (self._unit[even[some]] @ self._unit[odd].T).amax(1)
        return likeness
