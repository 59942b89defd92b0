"""Pivoted selection on a CPU by compiled loops: `HostRun`, image by image."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from . import loops
from .host import HostRun
from .host_products import Floats, HostBlocks
from .products import Way

_ABOUT = 1 + 2.0**-20  # times a tolerance: from here on every step is looked at


class HostCompiled(HostRun):
    """A `HostRun` in which an image goes on by itself and seldom comes back to Python.

    Every step reads all rows of the factor: the compiled loop does so faster than all products
    could be brought up to date.

    With way "exact" products are taken of a token when it is picked, in float64: a core takes as
    long for such a sum as for one in float32 where features come from its cache, and what is exact
    need not be computed anew when little is left.
    """

    def _take(self, rows: list[Tensor], weights: list[Tensor | None], way: Way) -> None:
        self._exact: list[tuple[Floats, Floats]] = []
        if way != "exact":
            super()._take(rows, weights, way)
            return
        for x, w, value in zip(rows, weights, self._value, strict=True):
            pair = x.numpy(), np.empty(0) if w is None else w.double().numpy()
            loops.squares(*pair, value[: len(x)])
            self._exact.append(pair)

    def advance(self, stop: int, tol: float | Tensor) -> None:
        """See `Run`."""
        images, asked = range(len(self._ks)), stop
        if not (isinstance(tol, float) and tol == 0):
            goals = np.broadcast_to(np.asarray(tol), len(images)).tolist()
            stop = max(self._reach(b, stop, goals[b]) for b in images)
        for b in images:
            self._pick(b, stop)
        if stop < asked:  # is what is left exact?
            self._lower_bar(self._value.max(1))
        self.steps = stop

    def _reach(self, b: int, stop: int, goal: float) -> int:
        """How many tokens, at least one, image b picks itself for a relative residual of `goal`."""
        energy = self._energy[:, b]
        whole = energy[0] if energy[0] > 0 else 1
        t = self._pick(b, stop, goal * _ABOUT * float(energy[0]))
        while t < stop and self._going[b] and not (t and self._reported(energy[t] / whole) <= goal):
            t = self._pick(b, t + 1)
        t = max(t, 1)
        return t if self._reported(energy[t] / whole) <= goal or self._deep()[b] else stop

    def _pick(self, b: int, stop: int, enough: float = -1.0) -> int:
        """Pick until there are `stop`, or no more than `enough` energy is left: how many."""
        t, own = int(self._rank[b]), min(stop, int(self._ks[b]))
        energy = self._energy[:, b]
        while t < own and self._going[b] and energy[t] > enough:
            t, more = self._loop(b, t, own, enough)
            if t < own and not more and energy[t] > enough:
                self._lower_bar(self._value.max(1))
        self._rank[b] = t
        if t == own or not self._going[b]:
            energy[t + 1 : stop + 1] = energy[t]
        return t

    def _loop(self, b: int, t: int, stop: int, enough: float) -> tuple[int, bool]:
        """How many tokens there are now, and whether products were lacking, and are there now."""
        n = int(self._lengths[b])
        state = self._value[b, :n], self._factor[b], self._order[:, b], self._energy[:, b]
        limits = stop, self._near[()], self._bar[b], enough
        if self._exact:
            return loops.advance_exactly(*self._exact[b], *state, t, *limits), False
        if self._gram is not None:
            return loops.advance(self._gram[b], np.arange(n), *state, t, *limits)[0], False
        source = self._single[b]
        assert isinstance(source, HostBlocks)
        t, lacking = loops.advance(source.held, source.places, *state, t, *limits)
        if lacking >= 0:
            source.fetch(lacking, state[0])
        return t, lacking >= 0
