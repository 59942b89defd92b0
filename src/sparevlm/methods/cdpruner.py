"""CDPruner: a determinantal point process conditioned on the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import BatchedMethod
from sparevlm.selection import checked_rows, select_each
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class CDPruner(BatchedMethod):
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

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        scores = [t.query.similarity() if t.query is not None else None for t in pictures]
        features = [checked_rows(tokens.features) for tokens in pictures]
        weights = [_weights(x, similar) for x, similar in zip(features, scores, strict=True)]
        selections = select_each(features, ks, weights)
        return [
            Reduction.picked(one.order, scores=similar)
            for one, similar in zip(selections, scores, strict=True)
        ]


def _weights(features: Tensor, similarity: Tensor | None) -> Tensor:
    """What makes of features [N, D] the rows r_i x_i / |x_i|, given their similarity [N]."""
    norms = torch.linalg.vector_norm(features, dim=1).double()
    lengths = torch.where(norms > 0, norms, torch.inf)
    if similarity is None:
        return 1 / lengths
    against = -similarity
    low, high = against.min(), against.max()
    return (against - low + 1e-6) / (high - low).clamp(min=1e-6) / lengths
