"""The loop of greedy column subset selection on a CPU, compiled by numba (imported here)."""

from __future__ import annotations

import numpy as np
from numba import float64, int64

from .jit import ANY_ORDER, FUSED, jit


@jit([float64(float64[::1], float64[::1], float64)], ANY_ORDER)
def _project(row, new, share):
    """Subtract from residual products [N] a share of `new` [N]; the sum of their squares."""
    total = 0.0
    for j in range(len(row)):
        left = row[j] - share * new[j]
        row[j] = left
        total += left * left
    return total


@jit([int64(float64[:, ::1], int64[::1], float64[::1], float64, float64)], FUSED)
def explain(gram, order, left, floor, near):
    """Pick tokens, each the one that explains the most, while something is left to explain.

    Parameters
    ----------
    gram : array [N, N], float64
        Inner products. They become those of the residuals.
    order : array [k], int64
        Takes the picks.
    left : array [k + 1], float64
        Takes the energy that is left.
    floor : float
        Squared residuals up to this share of the largest row's are rounding.
    near : float
        Values of at least so many times the largest are ties.

    Returns
    -------
    int
        How many tokens were picked.
    """
    n = len(gram)
    new, energy, gain = np.zeros(n), np.diag(gram).copy(), np.empty(n)
    floor *= energy.max()
    for i in range(n):
        gain[i] = _project(gram[i], new, 0.0)
    left[:] = energy.sum()
    for t in range(len(order)):
        best = -np.inf
        for i in range(n):
            if energy[i] > floor:
                best = max(best, gain[i] / energy[i])
        if best == -np.inf:
            return t
        token = 0
        while token < n - 1 and not (
            energy[token] > floor and gain[token] / energy[token] >= best * near
        ):
            token += 1
        new[:] = gram[token] / np.sqrt(energy[token])
        energy[token] = 0
        for i in range(n):
            if energy[i] > 0:
                gain[i] = _project(gram[i], new, new[i])
                energy[i] = gram[i, i]
        order[t] = token
        left[t + 1 :] = np.maximum(energy, 0).sum()
    return len(order)
