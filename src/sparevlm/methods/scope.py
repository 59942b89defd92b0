"""SCOPE: salient tokens that cover the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import BatchedMethod, by_rooms
from sparevlm.methods.settings import check_number
from sparevlm.selection import checked_rows, cosines, max_coverage_each
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class SCOPE(BatchedMethod):
    """Saliency-coverage oriented token pruning (arXiv 2510.24214, NeurIPS 2025).

    Always the token with the largest a_j^alpha sum_i max(0, cos(x_i, x_j) - best_i): how much it
    lifts the others' similarity to their most similar kept token (0 at first), times the class
    token's attention a_j. Cosines are of encoder states, attention is the sum over heads; both of
    the layer that the projector reads. A tower without a class token has the attention that a token
    receives in its place.

    Parameters
    ----------
    alpha : float
        At least 0; 0 is coverage alone.
    """

    name: ClassVar[str] = "scope"
    paper: ClassVar[str] = "arXiv 2510.24214"
    keeps: ClassVar[str] = "salient tokens that cover the others"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention", "projector"})

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", lambda a: a >= 0, "of at least 0")

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        return by_rooms(self._picked, pictures, ks)

    def _picked(self, pictures: list[VisualTokens], ks: list[int]) -> list[Reduction]:
        for tokens in pictures:
            checked_rows(tokens.features)
        saliency = [tokens.attention().sum(0) for tokens in pictures]
        alike = [cosines(tokens.states()) for tokens in pictures]
        factors = [
            values.pow(self.alpha).to(similarity.new_ones(0))
            for values, similarity in zip(saliency, alike, strict=True)
        ]
        orders = max_coverage_each(alike, ks, factors=factors)
        return [
            Reduction.picked(order, scores=values)
            for order, values in zip(orders, saliency, strict=True)
        ]
