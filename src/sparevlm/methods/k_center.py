"""k-center: max-min on Euclidean distance, a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import BatchedMethod, by_rooms
from sparevlm.selection import checked_rows, euclidean_distances, max_min_each
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class KCenter(BatchedMethod):
    """Keep the centres of Gonzalez's greedy k-center on Euclidean distance.

    Begins with the token of the largest L2 norm (ours: the algorithm allows any), then always takes
    the one farthest from its nearest kept token.
    """

    name: ClassVar[str] = "k-center"
    paper: ClassVar[str] = "control"
    keeps: ClassVar[str] = "tokens far apart in Euclidean distance"
    nested: ClassVar[bool] = True

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        return by_rooms(self._picked, pictures, ks)

    def _picked(self, pictures: list[VisualTokens], ks: list[int]) -> list[Reduction]:
        rows = [checked_rows(tokens.features) for tokens in pictures]
        orders = max_min_each(
            [euclidean_distances(features) for features in rows],
            ks,
            [torch.linalg.vector_norm(features, dim=1) for features in rows],
        )
        return [Reduction.picked(order) for order in orders]
