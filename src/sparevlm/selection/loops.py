"""Loops of pivoted selection on a CPU, compiled by numba, which is imported here.

A token goes through the same operations in the same order wherever it lies, so that twins round
alike, and an image whatever its company. Only sums over tokens or features are taken in another
order, the same for all.
"""

from __future__ import annotations

import numpy as np
from numba import float32, float64, int64, types, void

from .jit import ANY_ORDER, FUSED, jit

_BOTH = (float32, float64)
_WHERE = types.UniTuple(int64, 2)


@jit([void(x[:, ::1], float64[::1], int64, float64[::1]) for x in _BOTH], ANY_ORDER)
def column(rows, weights, token, out):
    """Inner products of weighted rows [N, D] with one of them, in float64, into out [N].

    weights [N]; [0] where there are none.
    """
    one = rows[token].astype(np.float64)
    for i in range(len(rows)):
        row = rows[i]
        total = 0.0
        for j in range(len(one)):
            total += row[j] * one[j]
        out[i] = total
    if len(weights):
        for i in range(len(rows)):
            out[i] *= weights[i] * weights[token]


@jit([void(x[:, ::1], float64[::1], float64[::1]) for x in _BOTH], ANY_ORDER)
def squares(rows, weights, out):
    """Squared norms of weighted rows [N, D], in float64, into out [N]."""
    for i in range(len(rows)):
        row = rows[i]
        total = 0.0
        for j in range(len(row)):
            total += np.float64(row[j]) * row[j]
        out[i] = total
    if len(weights):
        for i in range(len(rows)):
            out[i] *= weights[i] * weights[i]


@jit([int64(x[::1], x) for x in _BOTH], FUSED)
def _first(value, least):
    """The first token of at least so much; never one that is not there."""
    token = 0
    while token < len(value) - 1 and value[token] < least:
        token += 1
    return token


@jit([void(x[::1], x[:, ::1], int64, int64) for x in _BOTH], FUSED)
def _downdate(new, factor, token, end):
    """Subtract from products with a token, new [N], what rows 0 to `end` of the factor have."""
    t = 0
    while t + 8 <= end:  # `new` is read and written once for eight of them
        a, b, c, d = factor[t], factor[t + 1], factor[t + 2], factor[t + 3]
        e, f, g, h = factor[t + 4], factor[t + 5], factor[t + 6], factor[t + 7]
        p, q, r, s = a[token], b[token], c[token], d[token]
        u, v, w, x = e[token], f[token], g[token], h[token]
        for j in range(len(new)):
            half = new[j] - p * a[j] - q * b[j] - r * c[j] - s * d[j]
            new[j] = half - u * e[j] - v * f[j] - w * g[j] - x * h[j]
        t += 8
    while t < end:
        row = factor[t]
        scale = row[token]
        for j in range(len(new)):
            new[j] -= scale * row[j]
        t += 1


@jit([types.UniTuple(x, 2)(x[::1], x[::1], x) for x in _BOTH], ANY_ORDER)
def _subtract(value, new, scale):
    """Make new [N] a row of the factor, and take its squares from value [N].

    Returns the sum of what is left, and the largest.
    """
    zero = value.dtype.type(0)
    total, largest = zero, zero
    for j in range(len(value)):
        share = new[j] / scale
        new[j] = share
        left = value[j] - share * share
        left = left if left > zero else zero
        value[j] = left
        total += left
        largest = left if left > largest else largest
    return total, largest


@jit([x(int64, x[::1], x[::1], x[:, ::1], int64[:], x[:], int64) for x in _BOTH], FUSED)
def _keep(token, new, value, factor, order, energy, t):
    """Keep a token, whose products are new [N], as number t; the largest value that is left."""
    _downdate(new, factor, token, t)
    own = value[token]
    value[token] = 0
    energy[t + 1], best = _subtract(value, new, np.sqrt(own))
    order[t] = token
    return best


@jit(
    [
        _WHERE(
            x[:, :], int64[::1], x[::1], x[:, ::1], int64[:], x[:],
            int64, int64, x, x, float64,
        )
        for x in _BOTH
    ],
    FUSED,
)  # fmt: skip
def advance(held, places, value, factor, order, energy, t, stop, near, bar, enough):
    """Pick tokens of an image until there are `stop`.

    Parameters
    ----------
    held : array [H, N]
        Products with some tokens.
    places : array [N], int64
        Which row is a token's; -1 where none is, and where it was used.
    value : array [N]
        Squared residuals. It is changed.
    factor : array [k, W >= N]
        Rows of the Cholesky factor; those from t on are written.
    order : array [k], int64
    energy : array [k + 1]
    t, stop : int
        How many tokens there are, and how many are wanted.
    near : float
        Values of at least so many times the largest are ties.
    bar : float
        Values up to this one cannot be compared.
    enough : float
        Sum of values up to which the work is done.

    Returns
    -------
    (t, token)
        How many there are now, and the token whose products are lacking, or -1.
    """
    n = len(value)
    best = value.max()
    while t < stop and best > bar and energy[t] > enough:
        token = _first(value, best * near)
        place = places[token]
        if place < 0:
            return t, token
        places[token] = -1
        new = factor[t, :n]
        new[:] = held[place, :n]
        best = _keep(token, new, value, factor, order, energy, t)
        t += 1
    return t, -1


@jit(
    [
        int64(
            x[:, ::1], float64[::1], float64[::1], float64[:, ::1], int64[:], float64[:],
            int64, int64, float64, float64, float64,
        )
        for x in _BOTH
    ],
    FUSED,
)  # fmt: skip
def advance_exactly(rows, weights, value, factor, order, energy, t, stop, near, bar, enough):
    """`advance` with products of rows [N, D] taken in float64 when they are needed.

    Returns how many tokens there are now.
    """
    n = len(value)
    best = value.max()
    while t < stop and best > bar and energy[t] > enough:
        token = _first(value, best * near)
        new = factor[t, :n]
        column(rows, weights, token, new)
        best = _keep(token, new, value, factor, order, energy, t)
        t += 1
    return t
