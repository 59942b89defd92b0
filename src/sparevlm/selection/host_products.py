"""Inner products of one image on a CPU, a token at a time."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Numbers from which on numpy's library shares a product among threads of its own: on a busy server
# a step would wait milliseconds for the slowest of them.
_ONE_THREAD = 9216
_WIDE = 2048  # tokens from which on a product is long enough to be shared
_BLOCK = 16  # columns that one product computes
_HELD = 4 * _BLOCK  # columns held for later steps
Floats = NDArray[np.floating]


def rows_at_once(width: int) -> int:
    """Rows [m, W] that one product of a step takes, so that it stays in this thread."""
    return max(1, (_ONE_THREAD - 1) // width) if width <= _WIDE else 2**62


class HostProducts(Protocol):
    """Inner products of weighted rows."""

    def write(self, token: int, value: Floats, out: Floats) -> None:
        """Put <w_i x_i, w_j x_j> for all tokens i into out [N], j = token.

        value [N] tells which tokens are likely to be asked for next: those of the largest.
        """


class HostColumns:
    """One pass over the features [N, D] a step."""

    def __init__(self, rows: Tensor, weights: Tensor | None) -> None:
        self._rows, self._weights = rows, weights

    def write(self, token: int, value: Floats, out: Floats) -> None:
        """See `HostProducts`."""
        x, w, into = self._rows, self._weights, torch.from_numpy(out)
        if w is None:
            torch.mv(x, x[token], out=into)
        else:
            torch.mv(x, x[token] * w[token], out=into).mul_(w)


class HostBlocks:
    """Products of the tokens likely to be picked next, some at a time.

    One pass over the features [N, D] for 16 tokens takes three times as long as for one of them,
    and three in four of them are asked for later: a token's residual seldom falls far from one step
    to the next.

    Attributes
    ----------
    held : array [H, N]
        Products with some tokens.
    places : array [N], int64
        Which row of them is a token's; -1 where none is, or it is no longer needed.
    """

    def __init__(self, rows: Tensor, weights: Tensor | None) -> None:
        self._rows, self._weights = rows, weights
        n = len(rows)
        self.held: Floats = rows.new_empty(min(_HELD, n), n).numpy()
        self.places = np.full(n, -1)

    def write(self, token: int, value: Floats, out: Floats) -> None:
        """See `HostProducts`."""
        if self.places[token] < 0:
            self.fetch(token, value)
        out[:] = self.held[self.places[token]]
        self.places[token] = -1

    def fetch(self, token: int, value: Floats) -> None:
        """Hold the products with a token, and with those that are likely to follow."""
        x, w, places, size = self._rows, self._weights, self.places, len(self.held)
        known = np.flatnonzero(places >= 0)
        hope = value.copy()
        hope[known] = 0
        hope[token] = np.inf
        best = np.argpartition(hope, -min(_BLOCK, size))[-min(_BLOCK, size) :]
        best = np.sort(best[hope[best] > 0])
        fetched = torch.from_numpy(best)
        rows = x[fetched]
        if w is not None:
            rows.mul_(w[fetched, None])
        columns = rows @ x.T
        if w is not None:
            columns.mul_(w)
        lacking = len(best) - (size - len(known))
        if lacking > 0:  # the least likely go
            places[known[np.argsort(value[known], kind="stable")[:lacking]]] = -1
        unused = np.ones(size, np.bool_)
        unused[places[places >= 0]] = False
        room = np.flatnonzero(unused)[: len(best)]
        self.held[room] = columns.numpy()
        places[best] = room
