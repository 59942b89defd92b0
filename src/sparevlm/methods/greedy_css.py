"""Greedy column subset selection as a method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import BatchedMethod
from sparevlm.selection import greedy_css_each
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class GreedyCSS(BatchedMethod):
    """Keep the token that lowers the reconstruction error most, again and again (Farahat 2011).

    argmax_j |R r_j|^2 / |r_j|^2 with R the matrix of residuals: what SPARE's pivots approximate at
    a fraction of the cost.
    """

    name: ClassVar[str] = "greedy-css"
    paper: ClassVar[str] = "Farahat et al., ICDM 2011"
    keeps: ClassVar[str] = "the token that lowers the reconstruction error most, again and again"
    nested: ClassVar[bool] = True

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        selections = greedy_css_each([tokens.features for tokens in pictures], ks)
        return [Reduction.picked(one.order, residual=one.residual) for one in selections]
