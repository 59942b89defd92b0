"""Pivoted selection of one image on a CPU: `HostRun`, by vectors instead of arrays of them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .host import FOLD, WORTH, HostRun
from .host_products import rows_at_once


class HostOne(HostRun):
    """A `HostRun` of one image: the same to the last bit, in fewer calls."""

    def advance(self, stop: int, tol: float | Tensor) -> None:
        """See `Run`."""
        if isinstance(tol, float) and tol == 0 and self._going[0]:
            self._pick(min(stop, self._all))
        if self.steps < stop:  # at an end of some kind
            super().advance(stop, tol)

    def _pick(self, stop: int) -> None:
        """Pick while there is something left to compare."""
        value, factor = self._value[0], self._factor[0]
        order, energy = self._order[:, 0], self._energy[:, 0]
        gram = None if self._gram is None else self._gram[0]
        n, at_once, bar = len(value), rows_at_once(self._widths[0]), self._bar[0]
        square, largest = np.empty_like(value), np.empty(n, np.bool_)
        begin = int(self._folded[0])
        for t in range(self.steps, stop):
            if gram is not None and t and t % FOLD == 0 and self._ks[0] - t >= WORTH:
                self._fold(0, t)
                begin = t
            best = np.maximum.reduce(value)
            if not best > bar:
                if not self._lower_bar(best[None])[0]:
                    break
                bar = self._bar[0]
            pick = int(np.greater_equal(value, best * self._near, out=largest).argmax())
            order[t], own, new = pick, value[pick], factor[t, :n]
            if gram is not None:
                new[:] = gram[pick]
            else:
                self._single[0].write(pick, value, new)
            for first in range(begin - begin % at_once, t, at_once):
                past = factor[first : min(t, first + at_once)]
                # A copy: other strides may round otherwise.
                new -= (past[:, pick].copy() @ past)[:n]
            new /= np.sqrt(own)
            value -= np.multiply(new, new, out=square)
            np.maximum(value, 0, out=value)
            value[pick] = 0
            energy[t + 1] = np.add.reduce(value)
            self.steps = t + 1
        self._rank[0] = self.steps
