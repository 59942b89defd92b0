"""DivPrune: keep tokens that lie far apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import BatchedMethod, by_rooms
from sparevlm.selection import spread_each
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class DivPrune(BatchedMethod):
    """Diversity-based visual token pruning (arXiv 2503.02175, CVPR 2025).

    The max-min diversity problem on the cosine distance d_ij = 1 - cos(x_i, x_j), greedily: first
    the token whose nearest other token is farthest, argmax_i min_{j != i} d_ij, then always the one
    farthest from its nearest kept token, argmax_i min_{j kept} d_ij. The paper keeps 9.8 % by
    default (keep=0.098).
    """

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "arXiv 2503.02175"
    keeps: ClassVar[str] = "tokens far apart in direction (max-min)"
    nested: ClassVar[bool] = True

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        return by_rooms(self._picked, pictures, ks)

    def _picked(self, pictures: list[VisualTokens], ks: list[int]) -> list[Reduction]:
        orders = spread_each([tokens.features for tokens in pictures], ks)
        return [Reduction.picked(order) for order in orders]
