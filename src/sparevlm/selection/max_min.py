"""Max-min selection: the row farthest from its nearest picked one, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from .checks import check_k
from .compiled import compiled
from .distances import Cosine, Distances, Euclidean
from .greedy import Gain, greedy_order, in_one_launch


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
        Dissimilarities of all points to one: called with a point [1], int64, gives [N]. Those that
        `cosine_distances_to` and `euclidean_distances_to` give are the fastest on a CPU with numba.
        Or a symmetric matrix of them, or a batch of matrices.
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
    a batch; on a CPU one loop does. What they pick is the same. With numba, distances on a CPU that
    come from rows are taken only where the next pick may depend on them, Euclidean ones in float64.

    References
    ----------
    Gonzalez, Clustering to minimize the maximum intercluster distance, Theoretical Computer Science
    38, 1985. Minoux, Accelerated greedy algorithms for maximizing submodular set functions,
    Optimization Techniques, 1978 (values that only fall are brought up to date when they lead).
    """
    k = min(check_k(k), first.shape[-1])
    if _in_compiled_loop(distances):
        from .host_max_min import traversed  # imports numpy

        return traversed(distances, first, weights, k)
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


def _in_compiled_loop(distances: Distances | Tensor) -> TypeGuard[Cosine | Euclidean]:
    if not isinstance(distances, Cosine | Euclidean):
        return False
    return distances.rows.device.type == "cpu" and compiled()


def _on_the_host(distances: Tensor, k: int, first: Tensor, weights: Tensor | None) -> Tensor:
    from .host_max_min import farthest  # imports numpy

    if distances.ndim == 3:
        return farthest(distances, first, weights, k)
    return farthest(distances[None], first[None], None if weights is None else weights[None], k)[0]


@torch.no_grad()
def max_min_each(
    distances: Sequence[Distances | Tensor], ks: Sequence[int], firsts: Sequence[Tensor]
) -> list[Tensor]:
    """`max_min` of several images, without weights: the same, in one loop where it can be.

    On a CPU that is so for matrices, and for rows of one width on Euclidean distance, but for those
    that a compiled loop takes; images with fewer tokens are padded with some that cannot be picked.
    On a GPU it is so for matrices of one size.
    """
    orders: dict[int, Tensor] = {}
    groups: dict[Any, list[int]] = {}
    for i, (one, first) in enumerate(zip(distances, firsts, strict=True)):
        kind: Any = i
        if isinstance(one, Tensor):
            kind = (one.dtype, one.device, () if one.device.type == "cpu" else one.shape)
        elif isinstance(one, Euclidean) and first.device.type == "cpu" and not compiled():
            kind = (one.rows.dtype, one.rows.shape[1])
        groups.setdefault(kind, []).append(i)
    for places in groups.values():
        wanted = [min(check_k(ks[i]), len(firsts[i])) for i in places]
        if len(places) == 1:
            (i,) = places
            orders[i] = max_min(distances[i], wanted[0], firsts[i])
            continue
        # What cannot be picked is farther away than anything before the first pick too.
        first = pad_sequence(
            [firsts[i] for i in places], batch_first=True, padding_value=-torch.inf
        )
        matrices = [one for i in places if isinstance(one := distances[i], Tensor)]
        if matrices:
            n = first.shape[1]
            together = torch.stack([pad(one, (0, n - len(one)) * 2) for one in matrices])
            picked = max_min(together, max(wanted), first)
        else:
            picked = _of_rows([one for i in places if isinstance(one := distances[i], Euclidean)],
                              max(wanted), first)  # fmt: skip
        parts = zip(places, wanted, picked, strict=True)
        orders |= {i: order[:k].clone() for i, k, order in parts}
    return [orders[i] for i in range(len(ks))]


def _of_rows(euclidean: list[Euclidean], k: int, first: Tensor) -> Tensor:
    from .host_max_min import farthest  # imports numpy

    rows = pad_sequence([one.rows for one in euclidean], batch_first=True)
    return farthest(Euclidean(rows), first, None, k)


def _row_of(matrix: Tensor) -> Distances:
    return lambda point: matrix.index_select(0, point)[0]
