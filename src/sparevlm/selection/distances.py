"""How unlike each other tokens are: all pairs at once, or one column at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .greedy import in_one_launch, too_many_pairs
from .products import cosine_pairs
from .rows import blocks, checked_rows, unit_rows

Distances = Callable[[Tensor], Tensor]  # token [1] -> distances [N] of all tokens to it


def cosine_distances(features: Tensor) -> Tensor | Distances:
    """1 - cosine of all pairs of rows [N, D], float32 (float64 for float64).

    The matrix [N, N]; of more rows than `rows.LARGE` one column at a time, where no kernel runs the
    loop.
    """
    if too_many_pairs(features):
        return cosine_distances_to(features)
    return cosine_pairs(features).neg_().add_(1)


def nearest_others(features: Tensor, distances: Tensor | Distances) -> Tensor:
    """The cosine distance [N] of each row to the one nearest to it, twins included.

    `distances` is what `cosine_distances` gave.
    """
    if isinstance(distances, Tensor):
        if distances.device.type != "cpu" or in_one_launch(distances) or len(distances) == 1:
            return _second(distances)
        own = distances.diagonal().clone()
        nearest = distances.fill_diagonal_(torch.inf).amin(1)
        distances.diagonal().copy_(own)
        return nearest
    unit = unit_rows(features)
    parts = (_second((unit[some] @ unit.T).neg_().add_(1)) for some in blocks(len(unit)))
    return torch.cat(list(parts))


def _second(distances: Tensor) -> Tensor:
    """The second smallest of a row: the smallest is the distance to itself, or to a twin."""
    return distances.topk(min(2, distances.shape[1]), dim=1, largest=False).values[:, -1]


def slack(dtype: torch.dtype) -> float:
    """How far distances that are ties may lie apart.

    Two tokens that are each other's nearest tie, but for the rounding of d_ij and d_ji.
    """
    return 4 * float(torch.finfo(dtype).eps)


def cosine_distances_to(features: Tensor) -> Cosine:
    """`cosine_distances` one column at a time: right where k is far below N."""
    return Cosine(unit_rows(features))


def euclidean_distances(features: Tensor) -> Tensor | Distances:
    """|x_i - x_j|: the matrix [N, N] where a kernel runs the loop, else one column at a time."""
    rows = checked_rows(features)
    if not in_one_launch(rows):
        return euclidean_distances_to(features)
    # Without products, which would be wrong for twins.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def euclidean_distances_to(features: Tensor) -> Euclidean:
    """|x_i - x_j| of all rows to one: [N], float32 (float64 for float64)."""
    return Euclidean(checked_rows(features))


class Cosine:
    """1 - cosine of rows [N, D] of length 1 to one of them."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __call__(self, point: Tensor) -> Tensor:
        """Of one token [1] to all: [N]."""
        return (self.rows @ self.rows.index_select(0, point)[0]).neg_().add_(1)


class Euclidean:
    """|x_i - x_j| of rows [N, D], or of the rows of several images [B, N, D], to one of each."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self._gap = torch.empty_like(rows)
        self._images = torch.arange(len(rows), device=rows.device)

    def __call__(self, point: Tensor) -> Tensor:
        """Of one token [1], or of one of each image [B], to all: [N], or [B, N]."""
        if self.rows.ndim == 2:
            here = self.rows.index_select(0, point)
        else:
            here = self.rows[self._images, point][:, None]
        # |x|^2 - 2 x.y + |y|^2 would be faster, and wrong for twins.
        torch.sub(self.rows, here, out=self._gap)
        return torch.linalg.vector_norm(self._gap, dim=-1)
