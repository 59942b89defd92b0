"""Max-min selection: the row farthest from its nearest picked one, again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_k
from .greedy import Gain, greedy_order
from .rows import checked_rows, unit_rows

Distances = Callable[[Tensor], Tensor]  # token [1] -> distances [N] of all tokens to it


class _Farthest(Gain):
    """Value: (weighted) distance to the nearest picked token."""

    def __init__(self, distances: Distances, first: Tensor, weights: Tensor | None) -> None:
        self.value = first.clone()
        self._distances, self._weights = distances, weights
        self._nearest = torch.full_like(self.value, torch.inf)
        self._picked = torch.zeros_like(self.value, dtype=torch.bool)

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        torch.minimum(self._nearest, self._distances(pick), out=self._nearest)
        self._picked.index_fill_(0, pick, True)
        far = self._nearest if self._weights is None else self._nearest * self._weights
        self.value = far.masked_fill(self._picked, -torch.inf)


@torch.no_grad()
def max_min(
    distances: Distances | Tensor, k: int, first: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Pick k points by farthest-point traversal.

    Parameters
    ----------
    distances : callable or Tensor [N, N]
        Dissimilarities of all points to one: called with a point [1], int64, gives [N]. Or a
        symmetric matrix of them.
    k : int
        How many to pick; ``k >= N`` picks all N.
    first : Tensor [N], float
        The point with the largest value is picked first.
    weights : Tensor [N], optional
        Not negative; a point's distance is multiplied by its weight.

    Returns
    -------
    Tensor [k], int64
        Points in the order picked. Ties go to the lowest index.

    References
    ----------
    Gonzalez, Clustering to minimize the maximum intercluster distance, Theoretical Computer Science
    38, 1985.
    """
    row = _row_of(distances) if isinstance(distances, Tensor) else distances
    return greedy_order(_Farthest(row, first, weights), min(check_k(k), len(first)))


def _row_of(matrix: Tensor) -> Distances:
    return lambda point: matrix.index_select(0, point)[0]


def cosine_distances(features: Tensor) -> Tensor:
    """1 - cosine of all pairs of rows: [N, D] -> [N, N], float32 (float64 for float64)."""
    unit = unit_rows(features)
    return (unit @ unit.T).neg_().add_(1)


def cosine_distances_to(features: Tensor) -> Distances:
    """`cosine_distances` one column at a time: right where k is far below N."""
    unit = unit_rows(features)
    return lambda point: (unit @ unit.index_select(0, point)[0]).neg_().add_(1)


def euclidean_distances_to(features: Tensor) -> Distances:
    """|x_i - x_j| of all rows to one: [N], float32 (float64 for float64)."""
    rows = checked_rows(features)
    gap = torch.empty_like(rows)  # |x|^2 - 2 x.y + |y|^2 would be faster, and wrong for twins

    def distances(point: Tensor) -> Tensor:
        torch.sub(rows, rows.index_select(0, point), out=gap)
        return torch.linalg.vector_norm(gap, dim=1)

    return distances
