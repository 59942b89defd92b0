"""The loop of maximum coverage on a CPU, compiled by numba (imported here)."""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64, void

from .jit import FUSED, jit

_BOTH = (float32, float64)


@jit([void(float64[::1], x[::1], x, x, float64) for x in _BOTH], FUSED)
def _cover_one(gains, similar, old, new, weight):
    """Subtract from gains [N] what a target now covered up to `new` no longer gives."""
    for j in range(len(gains)):
        reached = min(max(similar[j], old), new)
        # Less what it was, lest rounding of large reaches be left of small gains.
        gains[j] -= weight * (np.float64(reached) - np.float64(old))


@jit(
    [
        void(
            x[:, ::1], float64[::1], float64[::1], float64[::1], float64[::1], x[::1], int64[::1],
            float64,
        )
        for x in _BOTH
    ],
    FUSED,
)  # fmt: skip
def cover(similarity, gains, least, weight, factor, reach, order, near):
    """Pick tokens of an image, each the one that covers the most besides.

    Parameters
    ----------
    similarity : array [M, N]
        Of M targets and N tokens.
    gains : array [N], float64
        What each token covers by itself. It is changed.
    least : array [N], float64
        Gains up to this are what rounding leaves.
    weight : array [M], float64
    factor : array [N], float64
        Not negative. That of a picked token becomes -inf.
    reach : array [M]
        Best similarity of every target so far. It is changed.
    order : array [k <= N], int64
        Takes the picks.
    near : float
        Gains of at least so many times the largest are ties.
    """
    n, value = len(gains), np.empty(len(gains))
    for t in range(len(order)):
        for j in range(n):
            value[j] = gains[j] if gains[j] > least[j] else 0.0
            value[j] = value[j] * factor[j] if factor[j] >= 0 else -np.inf
        bar = value.max() * near
        token = 0
        while token < n - 1 and not value[token] >= bar:
            token += 1
        order[t] = token
        factor[token] = -np.inf
        if t == len(order) - 1:
            break
        for i in range(len(reach)):
            new = similarity[i, token]
            if new > reach[i]:
                _cover_one(gains, similarity[i], reach[i], new, weight[i])
                reach[i] = new
