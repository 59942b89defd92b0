"""DivPrune: keep tokens that lie far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import PickingMethod
from sparevlm.selection import cosine_distances, max_min, nearest_others
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class DivPrune(PickingMethod):
    """Diversity-based visual token pruning (arXiv 2503.02175, CVPR 2025).

    The max-min diversity problem on the cosine distance d_ij = 1 - cos(x_i, x_j), greedily: first
    the token whose nearest other token is farthest, argmax_i min_{j != i} d_ij, then always the one
    farthest from its nearest kept token, argmax_i min_{j kept} d_ij. The paper keeps 9.8 % by
    default (keep=0.098).
    """

    name: ClassVar[str] = "divprune"
    paper: ClassVar[str] = "arXiv 2503.02175"
    nested: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        distances = cosine_distances(tokens.features)
        nearest = nearest_others(tokens.features, distances)
        # Two tokens that are each other's nearest tie, but for the rounding of d_ij and d_ji.
        near = nearest.max() - 4 * torch.finfo(nearest.dtype).eps
        first = (nearest >= near).to(nearest.dtype)
        return Reduction.picked(max_min(distances, k, first))
