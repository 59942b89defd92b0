"""Leverage-score sampling as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.seeded import SeededMethod
from sparevlm.selection import checked_rows, draw, leverage_scores
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class LeverageScores(SeededMethod):
    """Draw tokens by their leverage scores (Drineas, Mahoney and Muthukrishnan, 2008).

    l_i = |u_i|^2, with u_i the i-th row of the k leading left singular vectors of the features;
    k tokens are drawn without replacement, each by its score among those left.
    """

    name: ClassVar[str] = "leverage"
    paper: ClassVar[str] = "Drineas et al., SIAM J. Matrix Anal. Appl. 30, 2008"
    keeps: ClassVar[str] = "a draw by leverage scores"
    by_place: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        scores, _, _ = leverage_scores(checked_rows(tokens.features), k)
        return Reduction.picked(draw(scores, k, self.generator()), scores=scores)
