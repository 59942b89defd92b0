"""The loop of farthest-point traversal on a CPU, compiled by numba (imported here).

A distance is worked out when the next pick may depend on it: what a token is away from its nearest
pick only falls, so one that is behind others already is left alone until they are (Minoux,
Accelerated greedy algorithms, 1978). Of a token and a pick it is summed in the same order wherever
they lie, so that twins round alike.
"""

from __future__ import annotations

import numpy as np
from numba import boolean, float32, float64, int64, void

from .jit import ANY_ORDER, FUSED, jit

_BOTH = (float32, float64)


@jit([float64(x[::1], x[::1]) for x in _BOTH], ANY_ORDER)
def _squared_gap(one, other):
    total = 0.0
    for j in range(len(one)):
        gap = np.float64(one[j] - other[j])
        total += gap * gap
    return total


@jit([float64(x[::1], x[::1]) for x in _BOTH], ANY_ORDER)
def _product(one, other):
    total = 0.0
    for j in range(len(one)):
        total += np.float64(one[j]) * other[j]
    return total


@jit([float64(x[:, ::1], float64[::1], boolean, int64, int64) for x in _BOTH], FUSED)
def _distance(rows, weights, directions, token, pick):
    """Weighted distance of a token to a pick."""
    if directions:
        far = 1 - _product(rows[token], rows[pick])
    else:
        far = np.sqrt(_squared_gap(rows[token], rows[pick]))
    return far * weights[token] if len(weights) else far


@jit([void(int64[::1], float64[::1], int64, int64)], FUSED)
def _sink(heap, value, at, size):
    """Move the token at a place of a heap down to where it belongs: first the largest value.

    Of equal ones the lowest index is first.
    """
    token = heap[at]
    mine = value[token]
    while 2 * at + 1 < size:
        below = 2 * at + 1
        other = heap[below]
        if below + 1 < size:
            next_to_it = heap[below + 1]
            theirs, beside = value[other], value[next_to_it]
            if beside > theirs or (beside == theirs and next_to_it < other):
                below, other = below + 1, next_to_it
        if value[other] < mine or (value[other] == mine and token < other):
            break
        heap[at] = other
        at = below
    heap[at] = token


@jit([void(x[:, ::1], float64[::1], boolean, int64[::1]) for x in _BOTH], FUSED)
def traverse(rows, weights, directions, order):
    """Pick tokens of an image, each the one farthest from its nearest picked one.

    Parameters
    ----------
    rows : array [N, D]
        Where cosine distance counts, of length 1.
    weights : array [N] or [0], float64
        What distances are multiplied by, not negative; [0] where there are none.
    directions : bool
        Cosine distance instead of the Euclidean one.
    order : array [k <= N], int64
        The first is given; takes the others. Ties go to the lowest index.
    """
    n, first = len(rows), order[0]
    value = np.empty(n)
    compared = np.ones(n, np.int64)  # picks that a token's value knows of
    heap = np.empty(n, np.int64)
    size = 0
    for i in range(n):
        if i != first:
            value[i] = _distance(rows, weights, directions, i, first)
            heap[size] = i
            size += 1
    for at in range(size // 2 - 1, -1, -1):
        _sink(heap, value, at, size)
    t = 1
    while t < len(order):
        token = heap[0]
        if compared[token] == t:
            order[t] = token
            t += 1
            size -= 1
            heap[0] = heap[size]
        else:
            far = _distance(rows, weights, directions, token, order[compared[token]])
            compared[token] += 1
            if far >= value[token]:
                continue
            value[token] = far
        _sink(heap, value, 0, size)
