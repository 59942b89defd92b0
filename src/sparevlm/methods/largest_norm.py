"""The largest tokens: a control that looks at norms alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class LargestNorm(PickingMethod):
    """Keep the k tokens of the largest L2 norm; ties go to the lowest index."""

    name: ClassVar[str] = "norm"
    paper: ClassVar[str] = "control"
    keeps: ClassVar[str] = "tokens of the largest norm"
    nested: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        norms = torch.linalg.vector_norm(checked_rows(tokens.features), dim=1)
        return Reduction.picked(largest(norms, k), scores=norms)
