"""The loop of farthest-point traversal on a CPU, compiled by numba (imported here).

A distance is worked out when the next pick may depend on it: what a token is away from its nearest
pick only falls, so one that is behind others already is left alone until they are (Minoux,
Accelerated greedy algorithms, 1978). Of a token and a pick it is summed in the same order wherever
they lie, so that twins round alike.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64, void

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
    total = one.dtype.type(0)
    for j in range(len(one)):
        total += one[j] * other[j]
    return total


@jit([void(x[:, ::1], x[::1], int64[::1]) for x in _BOTH], FUSED)
def find_twins(rows, lengths, twin):
    """Put the lowest index of a row equal to each of rows [N, D] into twin [N].

    Twins have the same length; rows of length 0 are none.
    """
    by_length = np.argsort(lengths, kind="mergesort")  # stable: the lowest index comes first
    begin = 0
    for at in range(len(rows)):
        token = by_length[at]
        twin[token] = token
        if lengths[token] != lengths[by_length[begin]]:
            begin = at
        if lengths[token] == 0:
            continue
        for before in range(begin, at):
            other = by_length[before]
            if twin[other] == other and np.array_equal(rows[token], rows[other]):
                twin[token] = other
                break


@jit([float64(x[:, ::1], x[::1], int64, int64) for x in _BOTH], FUSED)
def _distance(rows, lengths, one, other):
    """Distance of two tokens; see `traverse`."""
    if one == other:
        return 0.0
    if len(lengths) == 0:
        return np.sqrt(_squared_gap(rows[one], rows[other]))
    scale = np.float64(lengths[one]) * np.float64(lengths[other])
    return 1 - _product(rows[one], rows[other]) / scale


@jit([float64(x[:, ::1], int64[::1], int64, int64) for x in _BOTH], FUSED)
def _held_distance(held, places, one, other):
    """Cosine distance of two tokens where it is known; else infinity."""
    if places[one] >= 0:
        return 1 - np.float64(held[places[one], other])
    if places[other] >= 0:
        return 1 - np.float64(held[places[other], one])
    return np.inf


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


@jit(
    [
        void(
            x[:, ::1], x[::1], x[:, ::1], int64[::1], int64[::1], float64[::1], int64[::1],
        )
        for x in _BOTH
    ],
    FUSED,
)  # fmt: skip
def traverse(rows, lengths, held, places, twin, weights, order):
    """Pick tokens of an image, each the one farthest from its nearest picked one.

    Parameters
    ----------
    rows : array [N, D]
    lengths : array [N] or [0]
        Of the rows, none of them 0, for cosine distance; [0] for Euclidean distance.
    held : array [H, N]
        Cosines that are known.
    places : array [N], int64
        Which row of them is a token's; -1 where none is.
    twin : array [N], int64
        The token that stands for each one: the first of those that are equal.
    weights : array [N] or [0], float64
        What distances are multiplied by, not negative; [0] where there are none.
    order : array [k <= N], int64
        The first is given; takes the others. Ties go to the lowest index.
    """
    n = len(rows)
    value = np.full(n, np.inf)
    looked_up = np.zeros(n, np.int64)  # picks of which a token's value knows if they are held
    compared = np.zeros(n, np.int64)  # of which it knows in any case
    heap = np.empty(n, np.int64)
    size = 0
    for i in range(n):
        if i != order[0]:
            heap[size] = i
            size += 1
    t = 1
    while t < len(order):
        token = heap[0]
        far = np.inf
        if compared[token] == t:
            order[t] = token
            t += 1
            size -= 1
            heap[0] = heap[size]
        elif len(held) and looked_up[token] < t:
            for p in range(looked_up[token], t):
                far = min(far, _held_distance(held, places, twin[token], twin[order[p]]))
            looked_up[token] = t
            if places[twin[token]] >= 0:
                compared[token] = t
        else:
            pick = twin[order[compared[token]]]
            compared[token] += 1
            if len(held) == 0 or places[pick] < 0:
                far = _distance(rows, lengths, twin[token], pick)
        if far < np.inf:
            value[token] = min(value[token], far * weights[token] if len(weights) else far)
        _sink(heap, value, 0, size)
