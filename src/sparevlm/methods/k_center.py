"""k-center: max-min on Euclidean distance, a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import PickingMethod
from sparevlm.selection import checked_rows, euclidean_distances, max_min
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class KCenter(PickingMethod):
    """Keep the centres of Gonzalez's greedy k-center on Euclidean distance.

    Begins with the token of the largest L2 norm (ours: the algorithm allows any), then always takes
    the one farthest from its nearest kept token.
    """

    name: ClassVar[str] = "k-center"
    paper: ClassVar[str] = "control"
    nested: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        norms = torch.linalg.vector_norm(checked_rows(tokens.features), dim=1)
        return Reduction.picked(max_min(euclidean_distances(tokens.features), k, norms))
