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
    """

    def __init__(self, rows: Tensor, weights: Tensor | None) -> None:
        self._rows, self._weights = rows, weights
        n = len(rows)
        self._held = rows.new_empty(min(_HELD, n), n).numpy()
        self._places: dict[int, int] = {}  # of held columns, by token
        self._free = list(range(len(self._held)))

    def write(self, token: int, value: Floats, out: Floats) -> None:
        """See `HostProducts`."""
        if token not in self._places:
            self._fetch(token, value)
        place = self._places.pop(token)
        self._free.append(place)
        out[:] = self._held[place]

    def _fetch(self, token: int, value: Floats) -> None:
        x, w, held, places = self._rows, self._weights, self._held, self._places
        hope = value.copy()
        hope[list(places)] = 0
        hope[token] = np.inf
        best = np.argpartition(hope, -min(_BLOCK, len(held)))[-min(_BLOCK, len(held)) :]
        best = np.sort(best[hope[best] > 0])
        fetched = torch.from_numpy(best)
        rows = x[fetched]
        if w is not None:
            rows.mul_(w[fetched, None])
        columns = rows @ x.T
        if w is not None:
            columns.mul_(w)
        while len(self._free) < len(best):
            worst = min(places, key=value.__getitem__)
            self._free.append(places.pop(worst))
        for column, known in zip(columns.numpy(), best.tolist(), strict=True):
            places[known] = self._free.pop()
            held[places[known]] = column
