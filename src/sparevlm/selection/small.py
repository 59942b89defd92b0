"""Selection over a batch of small images on a CPU, in one loop for all of them.

A step is some twenty operations on arrays [B, N], whatever B is. On arrays this small a call costs
more than what it computes, and calls of numpy cost a third of torch's. What rounds (products, sums)
is taken image by image by the same routine, so that an image does not depend on its company.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .result import fill_up

_PAD = 32  # entries; twins must round alike, wherever they lie


class SmallRun:
    """Greedy selection over images in step; can stop and go on.

    Parameters
    ----------
    rows : list of Tensor [N, D]
        Of every image, float32 or float64.
    weights : list of Tensor [N] or None
        What the rows are multiplied by besides.
    norms : Tensor [B, N]
        Weighted norms of the rows.
    k : int
        How many tokens at most.
    gram : bool
        Whether all products are taken at once.
    near, floor : float
        Values of at least `near` times the largest are ties; below `floor` times the largest
        initial one nothing is left to explain.
    """

    def __init__(
        self, rows: list[Tensor], weights: list[Tensor | None], norms: Tensor, k: int, *,
        gram: bool, near: float, floor: float,
    ) -> None:  # fmt: skip
        dtype = rows[0].dtype
        total, n = norms.shape
        self._norms, self._near = norms, np.asarray(near, _numpy(dtype))
        self._rows, self._weights = rows, weights
        self._value: NDArray[np.floating] = norms.to(dtype).square().numpy()
        self._floor = floor * self._value.max(1)
        self._gram: NDArray[np.floating] | None = None
        if gram:
            self._gram = _made(dtype, total, n, n)
            for x, product, w in zip(rows, torch.from_numpy(self._gram), weights, strict=True):
                torch.mm(x, x.T, out=product)
                if w is not None:
                    product.mul_(w).mul_(w[:, None])
        # Zeros behind the last token: no remainder, of which products might round otherwise.
        self._factor = _made(dtype, total, k, math.ceil(n / _PAD) * _PAD)
        self._factor[..., n:] = 0
        self._order = np.zeros((k, total), np.int64)
        self._rank = np.zeros(total, np.int64)
        self._energy = _made(dtype, k + 1, total)
        self._energy[0] = self._value.sum(1)
        self._images = np.arange(total)
        self.steps = 0

    def advance(self, stop: int, tol: float) -> None:
        """Pick tokens until there are ``stop``, or every image has reached ``tol`` > 0."""
        value, images = self._value, self._images
        for t in range(self.steps, stop):
            best = value.max(1)
            alive = best > self._floor
            if t and tol > 0 and bool((self._relative(t) <= tol).all()):
                self.steps = t
                return
            if t and not alive.any():
                self._energy[t + 1 : stop + 1] = self._energy[t]  # `order` fills up
                break
            pick = (value >= (best * self._near)[:, None]).argmax(1)
            self._order[t] = pick
            own = value[images, pick]
            new = self._column(t, pick)
            new /= np.where(alive, np.sqrt(own), np.inf)[:, None]  # exhausted ones stay as they are
            value -= new * new
            np.maximum(value, 0, out=value)
            value[images, pick] = np.where(alive, 0, own)
            self._rank += alive
            value.sum(1, out=self._energy[t + 1])
        self.steps = stop

    def _column(self, t: int, pick: NDArray[np.int64]) -> NDArray[np.floating]:
        """Row t of the factors [B, N], but for its scale."""
        new = self._factor[:, t, : self._norms.shape[1]]
        if self._gram is not None:
            new[:] = self._gram[self._images, pick]
        else:
            outs = torch.from_numpy(new).unbind()
            for x, w, at, out in zip(self._rows, self._weights, pick.tolist(), outs, strict=True):
                if w is None:
                    torch.mv(x, x[at], out=out)
                else:
                    torch.mv(x, x[at] * w[at], out=out).mul_(w)
        if t:
            past = self._factor[:, :t]
            lost = np.matmul(past[self._images, :, pick][:, None], past)[:, 0]
            new -= lost[:, : new.shape[1]]
        return new

    def _relative(self, t: int | slice) -> NDArray[np.floating]:
        initial = self._energy[0]
        return self._energy[t] / np.where(initial > 0, initial, 1)

    def release(self) -> None:
        """Drop what only further steps need."""
        self._gram, self._rows, self._factor = None, [], np.empty(0)

    def residual(self, steps: int) -> Tensor:
        """Relative residual [B, steps + 1]."""
        return torch.from_numpy(np.ascontiguousarray(self._relative(slice(0, steps + 1)).T))

    def order(self, steps: int) -> Tensor:
        """Order [B, steps], filled up by weighted norm from where an image was exhausted on."""
        order = torch.from_numpy(np.ascontiguousarray(self._order[:steps].T))
        return fill_up(order, torch.from_numpy(self._rank)[:, None], self._norms)


def _made(dtype: torch.dtype, *shape: int) -> NDArray[np.floating]:
    """Memory that torch counts and aligns."""
    made: NDArray[np.floating] = torch.empty(shape, dtype=dtype).numpy()
    return made


def _numpy(dtype: torch.dtype) -> type[np.floating]:
    return np.float64 if dtype == torch.float64 else np.float32


def farthest(distances: Tensor, first: Tensor, weights: Tensor | None, k: int) -> Tensor:
    """Picks [B, k] of `max_min` over matrices [B, N, N] on a CPU; first and weights are [B, N]."""
    matrix, value = distances.numpy(), first.numpy().copy()
    scale = None if weights is None else weights.numpy()
    images = np.arange(len(value))
    nearest = np.full_like(value, np.inf)
    gone = np.zeros_like(value)  # -inf: picked
    order = np.empty((k, len(value)), np.int64)
    for t in range(k):
        pick = value.argmax(1, out=order[t])
        np.minimum(nearest, matrix[images, pick], out=nearest)
        gone[images, pick] = -np.inf
        if scale is None:
            np.add(nearest, gone, out=value)
        else:
            np.multiply(nearest, scale, out=value)
            value += gone
    return torch.from_numpy(np.ascontiguousarray(order.T))
