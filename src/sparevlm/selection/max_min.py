"""Max-min selection: the row farthest from its nearest kept one, again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_k
from .rows import checked_rows, unit_rows


@torch.no_grad()
def max_min(distances: Tensor, k: int, first: int) -> Tensor:
    """Pick k points by farthest-point traversal.

    Parameters
    ----------
    distances : Tensor [N, N], float
        Symmetric dissimilarities; only the rows of picked points are read.
    k : int
        How many to pick; ``k >= N`` picks all N.
    first : int
        The point to begin with.

    Returns
    -------
    Tensor [k], int64
        Points in the order picked. Ties go to the lowest index.

    References
    ----------
    Gonzalez, Clustering to minimize the maximum intercluster distance, Theoretical Computer Science
    38, 1985.
    """
    n = len(distances)
    k = min(check_k(k), n)
    tokens = torch.arange(n, device=distances.device)
    order = torch.empty(k, dtype=torch.int64, device=distances.device)
    nearest = distances.new_full((n,), torch.inf)
    pick = torch.as_tensor(first, device=distances.device)
    for t in range(k):
        order[t] = pick
        nearest = torch.minimum(nearest, distances[pick])
        nearest[pick] = -torch.inf  # kept
        # Not argmax: of equal values it may return any on a GPU.
        pick = torch.where(nearest == nearest.max(), tokens, n).min()
    return order


def cosine_distances(features: Tensor) -> Tensor:
    """1 - cosine of all pairs of rows: [N, D] -> [N, N], float32 (float64 for float64)."""
    unit = unit_rows(features)
    return 1 - unit @ unit.T


def euclidean_distances(features: Tensor) -> Tensor:
    """|x_i - x_j| of all pairs of rows: [N, D] -> [N, N], float32 (float64 for float64)."""
    rows = checked_rows(features)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
