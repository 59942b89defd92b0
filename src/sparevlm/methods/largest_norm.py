"""The largest tokens: a control that looks at norms alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.base import PruningMethod
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class LargestNorm(PruningMethod):
    """Keep the k tokens of the largest L2 norm; ties go to the lowest index."""

    name: ClassVar[str] = "norm"
    paper: ClassVar[str] = "control"

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """See `PruningMethod.reduce`."""
        norms = torch.linalg.vector_norm(checked_rows(tokens.features), dim=1)
        candidates = tokens.candidate_indices()
        ranked = norms[candidates].argsort(descending=True, stable=True)
        order = candidates[ranked[: self.budget(tokens)]]
        return Reduction(indices=order.sort().values, scores=norms, order=order)
