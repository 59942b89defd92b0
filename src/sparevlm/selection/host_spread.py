"""`spread_each` of one image on a CPU, of which not all pairs are multiplied.

A fourth of the tokens is compared with all. What is nearer to one of them than the most isolated of
them is to any cannot be picked first; the others are compared with all too, the likeliest first,
until none is left. Later picks need the distances of few pairs more, which the compiled loop works
out when it must.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .distances import slack
from .products import PANEL, pairs, rows_and_lengths

_STRIDE = 4  # tokens beside each other are alike, so that these stand for all
_WAVE = 64  # tokens that are compared with all at a time; fewer are left each time


def spread(features: Tensor, k: int) -> Tensor:
    """Picks [k <= N] of features [N, D], in the order picked."""
    from .loops_max_min import find_twins, traverse  # imports numba

    rows, lengths = rows_and_lengths(features)
    rows = rows.contiguous()
    n = len(rows)
    twin = np.empty(n, np.int64)
    own = torch.linalg.vector_norm(rows, dim=1) if lengths is None else lengths
    find_twins(rows.numpy(), own.numpy(), twin)
    lengths = torch.ones_like(own) if lengths is None else lengths
    held, known, nearest = _cosines(rows, lengths)
    places = np.full(n, -1)
    places[known.numpy()] = np.arange(len(known))
    order = np.empty(k, np.int64)
    order[0] = known[nearest <= nearest.min() + slack(nearest.dtype)].min()
    nothing = np.empty(0)
    traverse(rows.numpy(), lengths.numpy(), held.numpy(), places, twin, nothing, order)
    return torch.from_numpy(order)


def _cosines(rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of some tokens with all, and among them that of the most isolated token.

    Returns
    -------
    held : Tensor [>= H, N]
        Cosines, in its first H rows.
    known : Tensor [H], int64
        Tokens that these are of.
    nearest : Tensor [H]
        The cosine of each to the other token nearest to it.
    """
    n = len(rows)
    held = rows.new_empty(n, n)
    if n < 2 * PANEL:
        known = torch.arange(n)
        return held, known, _cosines_of(known, pairs(rows, held), lengths)
    known = torch.arange(0, n, _STRIDE)
    some = torch.mm(rows[::_STRIDE], rows.T, out=held[: len(known)])
    nearest = _cosines_of(known, some, lengths)
    likest = some.amax(0)  # of each token, as far as is known
    likest[known] = torch.inf
    while True:
        # Products of other shapes round otherwise.
        isolated = (likest <= nearest.min() + 4 * slack(rows.dtype)).nonzero()[:, 0]
        if not len(isolated):
            return held, known, nearest
        begin = len(known)
        if 2 * len(isolated) > n - begin:  # halves of products save more
            isolated = likest.isfinite().nonzero()[:, 0]
            more = held[begin:n]
            more[:, isolated] = pairs(rows[isolated])
            more[:, known] = held[:begin, isolated].T * lengths[isolated, None] * lengths[known]
        else:
            isolated = isolated[likest[isolated].argsort()[:_WAVE]]
            more = held[begin : begin + len(isolated)]
            more.copy_((rows @ rows[isolated].T).T)
        known = torch.cat([known, isolated])
        nearest = torch.cat([nearest, _cosines_of(isolated, more, lengths)])
        torch.maximum(likest, more.amax(0), out=likest)
        likest[isolated] = torch.inf


def _cosines_of(tokens: Tensor, products: Tensor, lengths: Tensor) -> Tensor:
    """Make products [H, N] with tokens [H] cosines; the largest of each with another token: [H]."""
    products.div_(lengths).div_(lengths[tokens, None])
    own = torch.arange(len(tokens)), tokens
    products[own] = -torch.inf
    nearest = products.amax(1)
    products[own] = 1
    return nearest
