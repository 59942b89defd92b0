"""Max-min selection on a CPU: all images of a batch in one loop, or one in a compiled loop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .distances import Cosine, Euclidean

Floats = NDArray[np.floating]


def farthest(
    distances: Tensor | Callable[[Tensor], Tensor], first: Tensor, weights: Tensor | None, k: int
) -> Tensor:
    """Picks [B, k] of `max_min`.

    Parameters
    ----------
    distances : Tensor [B, N, N], or callable
        Matrices; or of one token of each image, [B] int64, the distances [B, N] of all to it.
    first : Tensor [B, N]
        -inf for what cannot be picked.
    weights : Tensor [B, N] or None
    k : int
        An image that has fewer tokens repeats some at the end.
    """
    value = first.numpy().copy()
    scale = None if weights is None else weights.numpy()
    columns = _columns(distances)
    nearest = np.full_like(value, np.inf)
    gone = np.where(value == -np.inf, value, 0)  # -inf: picked
    order = np.empty((k, len(value)), np.int64)
    images = np.arange(len(value))
    for t in range(k):
        pick = value.argmax(1, out=order[t])
        np.minimum(nearest, columns(pick), out=nearest)
        gone[images, pick] = -np.inf
        if scale is None:
            np.add(nearest, gone, out=value)
        else:
            np.multiply(nearest, scale, out=value)
            value += gone
    return torch.from_numpy(np.ascontiguousarray(order.T))


def traversed(
    distances: Cosine | Euclidean, first: Tensor, weights: Tensor | None, k: int
) -> Tensor:
    """Picks [k] of `max_min` among the rows [N, D] of one image, by a loop that numba compiled."""
    from .loops_max_min import traverse  # imports numba

    rows = distances.rows.contiguous()
    lengths = rows.new_ones(len(rows) if isinstance(distances, Cosine) else 0)
    held, none = rows.new_empty(0, len(rows)), np.full(len(rows), -1)
    scale = np.empty(0) if weights is None else weights.double().numpy()
    order = np.empty(k, np.int64)
    order[0] = first.double().numpy().argmax()
    traverse(rows.numpy(), lengths.numpy(), held.numpy(), none, np.arange(len(rows)), scale, order)
    return torch.from_numpy(order)


def _columns(
    distances: Tensor | Callable[[Tensor], Tensor],
) -> Callable[[NDArray[np.int64]], Floats]:
    if isinstance(distances, Tensor):
        matrix: Floats = distances.numpy()
        images = np.arange(len(matrix))
        return lambda pick: matrix[images, pick]
    return lambda pick: distances(torch.from_numpy(pick)).numpy()
