"""Max-min selection: the row farthest from its nearest picked one, again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_k
from .greedy import Gain, greedy_order, in_one_launch, too_many_pairs
from .rows import blocks, checked_rows, unit_rows

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
    distances : callable or Tensor [N, N] or [B, N, N]
        Dissimilarities of all points to one: called with a point [1], int64, gives [N]. Or a
        symmetric matrix of them, or a batch of matrices.
    k : int
        How many to pick; ``k >= N`` picks all N.
    first : Tensor [N] or [B, N], float
        The point with the largest value is picked first.
    weights : Tensor [N] or [B, N], optional
        Not negative; a point's distance is multiplied by its weight.

    Returns
    -------
    Tensor [k] or [B, k], int64
        Points in the order picked. Ties go to the lowest index.

    Notes
    -----
    Of float32 matrices on a GPU with Triton, up to 8192 points each, one launch makes all picks of
    a batch; on a CPU one loop does. What they pick is the same.

    References
    ----------
    Gonzalez, Clustering to minimize the maximum intercluster distance, Theoretical Computer Science
    38, 1985.
    """
    k = min(check_k(k), first.shape[-1])
    if not isinstance(distances, Tensor):
        return greedy_order(_Farthest(distances, first, weights), k)
    if in_one_launch(distances, first, *(() if weights is None else (weights,))):
        from sparevlm.kernels.greedy import farthest  # imports Triton

        return farthest(distances, first, weights, k)
    if distances.device.type == "cpu":
        return _on_the_host(distances, k, first, weights)
    if distances.ndim == 3:
        parts = weights if weights is not None else [None] * len(first)
        each = zip(distances, first, parts, strict=True)
        return torch.stack([max_min(matrix, k, start, w) for matrix, start, w in each])
    return greedy_order(_Farthest(_row_of(distances), first, weights), k)


def _on_the_host(distances: Tensor, k: int, first: Tensor, weights: Tensor | None) -> Tensor:
    from .small import farthest  # imports numpy

    if distances.ndim == 3:
        return farthest(distances, first, weights, k)
    return farthest(distances[None], first[None], None if weights is None else weights[None], k)[0]


def _row_of(matrix: Tensor) -> Distances:
    return lambda point: matrix.index_select(0, point)[0]


def cosine_distances(features: Tensor) -> Tensor | Distances:
    """1 - cosine of all pairs of rows [N, D], float32 (float64 for float64).

    The matrix [N, N]; of more rows than `rows.LARGE` one column at a time, where no kernel runs the
    loop.
    """
    unit = unit_rows(features)
    if too_many_pairs(unit):
        return cosine_distances_to(features)
    return (unit @ unit.T).neg_().add_(1)


def nearest_others(features: Tensor, distances: Tensor | Distances) -> Tensor:
    """The cosine distance [N] of each row to the one nearest to it, twins included.

    `distances` is what `cosine_distances` gave.
    """
    if isinstance(distances, Tensor):
        return _second(distances)
    unit = unit_rows(features)
    parts = (_second((unit[some] @ unit.T).neg_().add_(1)) for some in blocks(len(unit)))
    return torch.cat(list(parts))


def _second(distances: Tensor) -> Tensor:
    """The second smallest of a row: the smallest is the distance to itself, or to a twin."""
    return distances.topk(min(2, distances.shape[1]), dim=1, largest=False).values[:, -1]


def cosine_distances_to(features: Tensor) -> Distances:
    """`cosine_distances` one column at a time: right where k is far below N."""
    unit = unit_rows(features)
    return lambda point: (unit @ unit.index_select(0, point)[0]).neg_().add_(1)


def euclidean_distances(features: Tensor) -> Tensor | Distances:
    """|x_i - x_j|: the matrix [N, N] where a kernel runs the loop, else one column at a time."""
    rows = checked_rows(features)
    if not in_one_launch(rows):
        return euclidean_distances_to(features)
    # Without products, which would be wrong for twins.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def euclidean_distances_to(features: Tensor) -> Distances:
    """|x_i - x_j| of all rows to one: [N], float32 (float64 for float64)."""
    rows = checked_rows(features)
    gap = torch.empty_like(rows)  # |x|^2 - 2 x.y + |y|^2 would be faster, and wrong for twins

    def distances(point: Tensor) -> Tensor:
        torch.sub(rows, rows.index_select(0, point), out=gap)
        return torch.linalg.vector_norm(gap, dim=1)

    return distances
