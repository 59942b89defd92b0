"""k-center: max-min on Euclidean distance, a control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.base import PruningMethod
from sparevlm.selection import euclidean_distances, max_min
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class KCenter(PruningMethod):
    """Keep the centres of Gonzalez's greedy k-center on Euclidean distance.

    Begins with the token of the largest L2 norm (ours: the algorithm allows any), then always takes
    the one farthest from its nearest kept token.
    """

    name: ClassVar[str] = "k-center"
    paper: ClassVar[str] = "control"

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """See `PruningMethod.reduce`."""
        features = tokens.candidate_features()
        distances = euclidean_distances(features)
        norms = features.float().norm(dim=1)
        first = int((norms == norms.max()).nonzero()[0])
        order = tokens.candidate_indices()[max_min(distances, self.budget(tokens), first)]
        return Reduction(indices=order.sort().values, order=order)
