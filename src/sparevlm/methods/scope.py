"""SCOPE: salient tokens that cover the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import PickingMethod
from sparevlm.methods.settings import check_number
from sparevlm.selection import checked_rows, cosines, max_coverage, unit_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class SCOPE(PickingMethod):
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
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention", "projector"})

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", lambda a: a >= 0, "of at least 0")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        checked_rows(tokens.features)
        unit = unit_rows(tokens.states())
        saliency = tokens.attention().sum(0)
        factor = saliency.pow(self.alpha).to(unit.dtype)
        order = max_coverage(cosines(unit), k, factor=factor)
        return Reduction.picked(order, scores=saliency)
