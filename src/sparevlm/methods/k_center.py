"""k-center: max-min on Euclidean distance, a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import PickingMethod, in_rooms
from sparevlm.selection import checked_rows, euclidean_distances, max_min_each
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
        return self.pick_all([tokens], [k])[0]

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `PickingMethod.pick_all`."""
        reductions: dict[int, Reduction] = {}
        for some in in_rooms([tokens.features for tokens in pictures]):
            rows = [checked_rows(pictures[i].features) for i in some]
            orders = max_min_each(
                [euclidean_distances(features) for features in rows],
                [ks[i] for i in some],
                [torch.linalg.vector_norm(features, dim=1) for features in rows],
            )
            reductions |= {
                i: Reduction.picked(order) for i, order in zip(some, orders, strict=True)
            }
        return [reductions[i] for i in range(len(pictures))]
