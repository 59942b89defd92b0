"""Two-stage column subset selection as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.seeded import SeededMethod
from sparevlm.selection import checked_rows, two_stage
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class TwoStageCSS(SeededMethod):
    """Draw about k log k tokens by leverage, then pivot among them (Boutsidis et al., 2009).

    Token j is drawn with probability min(1, c p_j), c = max(2 k, k log k), p_j the mean of its
    share of the leverage scores of rank k and of what lies outside that subspace; k of the drawn
    are picked by pivoted QR of their singular-vector rows, scaled by the inverse square root of
    that probability.
    """

    name: ClassVar[str] = "two-stage"
    paper: ClassVar[str] = "Boutsidis et al., SODA 2009"
    keeps: ClassVar[str] = "pivots among a draw by leverage"
    by_place: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows = checked_rows(tokens.features)
        return Reduction.picked(two_stage(rows, k, self.generator()))
