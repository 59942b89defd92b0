"""Greedy loops over a matrix of distances or similarities, all steps in one launch."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .loop import launch_shape, lowest


def farthest(distances: Tensor, first: Tensor, weights: Tensor | None, k: int) -> Tensor:
    """Max-min selection; see `sparevlm.selection.max_min`.

    Parameters
    ----------
    distances : Tensor [.., N, N], float32
    first : Tensor [.., N], float32
    weights : Tensor [.., N], float32, optional
    k : int
        At most N.

    Returns
    -------
    Tensor [.., k], int64
    """
    weights = torch.ones_like(first) if weights is None else weights
    return _run(distances, first, weights, first, k, float("inf"), 1.0, covers=False)


def covering(
    columns: Tensor, gains: Tensor, factor: Tensor, weights: Tensor, k: int, start: float,
    near: float,
) -> Tensor:  # fmt: skip
    """Maximum coverage; see `sparevlm.selection.max_coverage`.

    Parameters
    ----------
    columns : Tensor [.., N, M], float32
        Similarities of every token to all targets.
    gains : Tensor [.., N], float32
        What each token would bring at first.
    factor : Tensor [.., N], float32
    weights : Tensor [.., M], float32
    k : int
        At most N.
    start : float
    near : float
        Gains of at least ``near`` times the largest are ties.

    Returns
    -------
    Tensor [.., k], int64
    """
    return _run(columns, gains, factor, weights, k, start, near, covers=True)


def _run(
    rows: Tensor, value: Tensor, factor: Tensor, weights: Tensor, k: int, start: float,
    near: float, *, covers: bool,
) -> Tensor:  # fmt: skip
    *images, n, m = rows.shape
    order = rows.new_empty(*images, k, dtype=torch.int64)
    tokens, targets = launch_shape(n).block, launch_shape(m).block
    _greedy[(math.prod(images),)](
        rows.contiguous(), value.contiguous(), factor.contiguous(), weights.contiguous(), order,
        n, m, k, start, near, covers, tokens, targets,
        num_warps=launch_shape(max(n, m)).warps,
    )  # fmt: skip
    return order


@triton.jit
def _stale(value, fresh, bar, tokens, BLOCK: tl.constexpr):
    """The lowest token whose gain may be the largest and is not known; BLOCK if there is none."""
    # A gain of 0 cannot fall.
    return lowest(tl.where((fresh > 0) | (value <= 0), -1.0, value), bar, tokens, BLOCK)


@triton.jit
def _greedy(
    rows, values, factors, weights, orders, n, m, k, start, near,
    COVERS: tl.constexpr, TOKENS: tl.constexpr, TARGETS: tl.constexpr,
):  # fmt: skip
    """Arrays: rows [B, N, M], values and factors [B, N], weights [B, M], orders [B, k].

    A step takes the token of the largest value. It brings every target nearer (M = N; the value is
    what its own distance then is), or lifts what every target is covered by (the value is the sum
    of all lifts, computed anew only where it may be the largest: it can only fall).
    """
    image = tl.program_id(0).to(tl.int64)
    tokens, targets = tl.arange(0, TOKENS), tl.arange(0, TARGETS)
    value = tl.load(values + image * n + tokens, mask=tokens < n, other=-float("inf"))
    factor = tl.load(factors + image * n + tokens, mask=tokens < n, other=0.0)
    rows += image * n * m
    reached = tl.zeros((TARGETS,), tl.float32) + start
    if COVERS:
        weight = tl.load(weights + image * m + targets, mask=targets < m, other=0.0)
    left = (tokens < n).to(tl.int32)
    fresh = left
    for t in range(k):
        best = tl.max(value, 0)
        if COVERS:
            token = _stale(value, fresh, best * near, tokens, TOKENS)
            while token < n:
                row = tl.load(rows + token.to(tl.int64) * m + targets, mask=targets < m, other=0.0)
                gain = tl.sum(tl.maximum(row - reached, 0.0) * weight, 0) * factor
                here = tokens == token
                # Rounding must not lift a gain above its old bound.
                value = tl.where(here, tl.minimum(gain, value), value)
                fresh = tl.where(here, 1, fresh)
                best = tl.max(value, 0)
                token = _stale(value, fresh, best * near, tokens, TOKENS)
        pick = lowest(value, best * near, tokens, TOKENS)
        pick = tl.minimum(pick, n - 1)  # of NaN none is the largest
        tl.store(orders + image * k + t, pick.to(tl.int64))
        left = tl.where(tokens == pick, 0, left)
        row = tl.load(rows + pick.to(tl.int64) * m + targets, mask=targets < m, other=0.0)
        if COVERS:
            reached = tl.maximum(reached, row)
            value = tl.where(left > 0, value, -float("inf"))
            fresh = 1 - left
        else:
            reached = tl.minimum(reached, row)
            value = tl.where(left > 0, reached * factor, -float("inf"))
