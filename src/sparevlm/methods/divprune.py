"""DivPrune: keep tokens that lie far apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import PickingMethod, alike
from sparevlm.selection import Distances, cosine_distances, max_min, nearest_others
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
        return Reduction.picked(max_min(*self._distances(tokens.features, k)))

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `PickingMethod.pick_all`: `max_min` takes a batch of matrices."""
        reductions: dict[int, Reduction] = {}
        for group in alike([tokens.features for tokens in pictures], ks, pairs=True):
            parts = [self._distances(pictures[i].features, ks[i]) for i in group]
            matrices = [matrix for matrix, _, _ in parts if isinstance(matrix, Tensor)]
            if len(matrices) < 2:
                orders = [max_min(*part) for part in parts]
            else:
                firsts = torch.stack([first for _, _, first in parts])
                orders = list(max_min(torch.stack(matrices), ks[group[0]], firsts))
            reductions |= {
                i: Reduction.picked(order) for i, order in zip(group, orders, strict=True)
            }
        return [reductions[i] for i in range(len(pictures))]

    def _distances(self, features: Tensor, k: int) -> tuple[Tensor | Distances, int, Tensor]:
        """What `max_min` takes of a picture."""
        distances = cosine_distances(features)
        nearest = nearest_others(features, distances)
        # Two tokens that are each other's nearest tie, but for the rounding of d_ij and d_ji.
        near = nearest.max() - 4 * torch.finfo(nearest.dtype).eps
        return distances, k, (nearest >= near).to(nearest.dtype)
