"""Pivoted selection on a CPU: all images of a batch in one loop.

A step is some twenty operations on arrays [B, N], whatever B is. On arrays this small a call costs
more than what it computes, and calls of numpy cost a third of torch's. What rounds (products, sums)
is taken image by image by the same routine, so that an image does not depend on its company.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .host_products import Floats, HostBlocks, HostColumns, HostProducts, rows_at_once
from .products import Way, pairs
from .stages import Bounds

_PAD = 32  # entries; twins and images must round alike, wherever they lie
FOLD = 15  # steps after which all products are brought up to date, lest every step read them again
WORTH = 24  # steps to come from which on that pays


class HostRun:
    """Greedy selection over images in step; can stop and go on.

    Parameters
    ----------
    rows : list of Tensor [N, D]
        Of every image, float32 or float64. N may differ: shorter images are padded with tokens that
        cannot be picked.
    weights : list of Tensor [N] or None
        What the rows are multiplied by besides.
    norms : list of Tensor [N]
        Weighted norms of the rows.
    ks : list of int
        How many tokens of each image at most.
    way : "gram", "blocks", "columns", "exact" or "given"
        Where products come from: of all pairs at once, of tokens likely to be picked, of a token,
        of a token in float64 (`HostCompiled` alone); or rows are such products [N, N] already.
    bounds : Bounds
        What may still be compared.
    """

    def __init__(
        self, rows: list[Tensor], weights: list[Tensor | None], norms: list[Tensor],
        ks: Sequence[int], way: Way, bounds: Bounds,
    ) -> None:  # fmt: skip
        dtype, k = torch.float64 if way == "exact" else rows[0].dtype, max(ks)
        self._reported = _numpy(rows[0].dtype)
        self._lengths = np.array([len(x) for x in rows])
        total, n = len(rows), int(self._lengths.max())
        self._widths = [wide(n) for n in self._lengths.tolist()]
        at_once = {rows_at_once(width) for width in self._widths}
        self._rows_at_once = at_once.pop() if len(at_once) == 1 else None
        self._ragged = bool((self._lengths < n).any())
        if self._ragged:
            self.norms = pad_sequence(norms, batch_first=True, padding_value=-2.0)  # never kept
        else:
            self.norms = torch.stack(norms)
        self._ks, self._all = np.array(ks), min(ks)
        self._near = np.asarray(bounds.near, _numpy(dtype))
        held = self.norms.clamp(min=0) if self._ragged else self.norms
        self._value: Floats = held.to(dtype).square().numpy()
        self._gram: Floats | None = None
        self._single: list[HostProducts] = []
        self._take(rows, weights, way)
        self._first = self._value.copy()
        largest = self._value.max(1)
        self._trust, self._floor = bounds.trust, np.asarray(bounds.floor, largest.dtype) * largest
        self._bar = np.maximum(bounds.trust * largest, self._floor)
        self._going = np.ones(total, np.bool_)
        # Zeros behind the last token: no remainder, of which products might round otherwise.
        self._factor = made(dtype, total, k, wide(n))
        self._factor[..., int(self._lengths.min()) :] = 0
        self._order = np.zeros((k, total), np.int64)
        self._rank = np.zeros(total, np.int64)
        self._energy = made(dtype, k + 1, total)
        self._images = np.arange(total)
        self._folded = np.zeros(total, np.int64)  # steps that the products know of
        self.steps = 0
        self._sum_energy(0)

    def _take(self, rows: list[Tensor], weights: list[Tensor | None], way: Way) -> None:
        """Get products, or what makes them."""
        if way in ("given", "gram"):
            n = self._value.shape[1]
            self._gram = _all_products(rows, weights, n, way)[..., :n]
        else:
            kind = HostBlocks if way == "blocks" else HostColumns
            self._single = [kind(x, w) for x, w in zip(rows, weights, strict=True)]

    def advance(self, stop: int, tol: float | Tensor) -> None:
        """See `Run`."""
        value, images = self._value, self._images
        goal = None if isinstance(tol, float) and tol == 0 else np.asarray(tol)
        for t in range(self.steps, stop):
            if self._gram is not None and t and t % FOLD == 0:
                for b in np.flatnonzero(self._going & (self._ks - t >= WORTH)).tolist():
                    self._fold(b, t)
            best = np.maximum.reduce(value, 1)
            alive = best > self._bar
            all_alive = bool(np.logical_and.reduce(alive))
            if not all_alive and bool((alive != self._going).any()):
                alive = self._lower_bar(best)
                all_alive = bool(alive.all())
            if t >= self._all:
                alive &= self._ks > t
                all_alive = bool(alive.all())
            if t and goal is not None and self._reached(t, goal):
                self.steps = t
                return
            if t and not all_alive and not alive.any():
                self._energy[t + 1 : stop + 1] = self._energy[t]
                break
            pick = (value >= (best * self._near)[:, None]).argmax(1, out=self._order[t])
            own = value[images, pick]
            new = self._column(t, pick, alive)
            scale = np.sqrt(own)
            if not all_alive:  # exhausted ones stay as they are
                scale = np.where(alive, scale, np.inf)
            new /= scale[:, None]
            value -= new * new
            np.maximum(value, 0, out=value)
            value[images, pick] = 0 if all_alive else np.where(alive, 0, own)
            self._rank += alive
            self._sum_energy(t + 1)
        self.steps = stop

    def _lower_bar(self, best: Floats) -> NDArray[np.bool_]:
        """Images that may go on: what was picked no longer decides how exact values are."""
        first = np.where(self._value > 0, self._first, 0).max(1)
        self._bar = np.maximum(self._trust * first, self._floor)
        self._going = best > self._bar
        return self._going.copy()

    def _reached(self, t: int, tol: NDArray) -> bool:
        done = self._relative(t) <= tol
        return bool(done.all()) or bool((done | self._deep()).all())

    def _deep(self) -> NDArray[np.bool_]:
        return ~self._going & (self._value.max(1) > self._floor)

    def look(self) -> tuple[list[int], bool]:
        """See `Run`."""
        if self._going.all():
            return [], True
        deep = np.flatnonzero(self._deep() & (self._rank < self._ks))
        return deep.tolist(), bool((self._rank >= np.minimum(self._ks, self.steps)).all())

    def _column(self, t: int, pick: NDArray[np.int64], alive: NDArray[np.bool_]) -> Floats:
        """Row t of the factors [B, N], but for its scale."""
        new = self._factor[:, t, : self._value.shape[1]]
        if self._gram is not None:
            new[:] = self._gram[self._images, pick]
        else:
            for b, (products, n) in enumerate(zip(self._single, self._lengths, strict=True)):
                if alive[b]:
                    products.write(int(pick[b]), self._value[b, :n], new[b, :n])
                else:
                    new[b] = 0
        if t:
            self._downdate(new, t, pick)
        return new

    def _downdate(self, new: Floats, t: int, pick: NDArray[np.int64]) -> None:
        """Subtract from `new` [B, N] what the first t rows of the factors have of it."""
        n, past, begin = new.shape[1], self._factor[:, :t], int(self._folded.min())
        at_pick = past[self._images, :, pick]
        if self._rows_at_once is not None and len(pick) > 1:
            at_once = self._rows_at_once
            for first in range(begin - begin % at_once, t, at_once):
                some = slice(first, first + at_once)
                new -= np.matmul(at_pick[:, None, some], past[:, some])[:, 0, :n]
            return
        for b, width in enumerate(self._widths):  # as each would be by itself
            at_once = rows_at_once(width)
            for first in range(begin - begin % at_once, t, at_once):
                some = slice(first, first + at_once)
                new[b] -= (at_pick[b, some] @ past[b, some])[:n]

    def _fold(self, b: int, t: int) -> None:
        """Subtract from the products of all pairs of an image what the factor has of them."""
        assert self._gram is not None
        n, since = int(self._lengths[b]), int(self._folded[b])
        factor = self._factor[b, since:t]
        product, rows = (torch.from_numpy(x[:, :n]) for x in (self._gram[b, :n], factor))
        torch.addmm(product, rows.T, rows, alpha=-1, out=product)
        factor[:] = 0
        self._folded[b] = t

    def _sum_energy(self, t: int) -> None:
        if not self._ragged:
            np.add.reduce(self._value, 1, out=self._energy[t])
            return
        for b, n in enumerate(self._lengths):  # sums over padding would round otherwise
            self._energy[t, b] = np.add.reduce(self._value[b, :n])

    def _relative(self, t: int | slice) -> Floats:
        initial = self._energy[0]
        share: Floats = self._energy[t] / np.where(initial > 0, initial, 1)
        return share.astype(self._reported)

    def release(self) -> None:
        """Drop what only further steps need."""
        self._gram, self._single, self._factor = None, [], np.empty(0)

    def residual(self, steps: int) -> Tensor:
        """See `Run`."""
        return torch.from_numpy(np.ascontiguousarray(self._relative(slice(0, steps + 1)).T))

    def picks(self, steps: int) -> tuple[Tensor, Tensor]:
        """See `Run`."""
        order = torch.from_numpy(np.ascontiguousarray(self._order[:steps].T))
        return order, torch.from_numpy(self._rank)[:, None].clone()


def _all_products(rows: list[Tensor], weights: list[Tensor | None], n: int, way: Way) -> Floats:
    """Products of all pairs [B, N, W] of every image; or rows are such already."""
    ragged = any(len(x) < n for x in rows)
    room = made(rows[0].dtype, len(rows), n, wide(n), zero=ragged)
    for x, w, into in zip(rows, weights, torch.from_numpy(room), strict=True):
        out = into[: len(x), : len(x)]
        product = out.copy_(x) if way == "given" else pairs(x, out)
        if w is not None:
            product.mul_(w).mul_(w[:, None])
    return room


def wide(n: int) -> int:
    """How long rows of n tokens are, so that all of them begin alike in memory."""
    return math.ceil(n / _PAD) * _PAD


def made(dtype: torch.dtype, *shape: int, zero: bool = False) -> Floats:
    """Memory that torch counts and aligns."""
    made: Floats = (torch.zeros if zero else torch.empty)(shape, dtype=dtype).numpy()
    return made


def _numpy(dtype: torch.dtype) -> type[np.floating]:
    return np.float64 if dtype == torch.float64 else np.float32
