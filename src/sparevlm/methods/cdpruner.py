"""CDPruner: a determinantal point process conditioned on the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import PickingMethod
from sparevlm.selection import select, unit_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class CDPruner(PickingMethod):
    """Conditional diversity maximisation (arXiv 2506.10967, NeurIPS 2025).

    Greedy MAP of the DPP with kernel diag(r) S diag(r): S_ij = cos(x_i, x_j) of the features, and r
    the negated similarity of token and question, r_i = -cos(patch_i, text), averaged over the
    segments of the text and scaled to (r - min + 1e-6) / (max - min) within the picture. (The
    published code takes minimum and maximum over the whole batch.) Without a question r = 1.

    Greedy MAP is pivoted selection of the rows r_i x_i / |x_i|, so SPARE's core computes it.
    """

    name: ClassVar[str] = "cdpruner"
    paper: ClassVar[str] = "arXiv 2506.10967"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query"})

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        scores = weights = None
        if tokens.query is not None:
            scores = tokens.query.similarity()
            against = -scores
            low, high = against.min(), against.max()
            weights = (against - low + 1e-6) / (high - low).clamp(min=1e-6)
        selection = select(unit_rows(tokens.features), k, weights=weights)
        return Reduction.picked(selection.order, scores=scores)
