"""A small picture on a CPU that asks for nothing but the loop: no scaling, no second stage.

It is picked from as `HostCompiled` does with products in float64, to the last bit, in half of the
time: what prepares for all that may be odd about a picture takes as long as its loop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import loops
from .host import made, wide
from .result import Selection
from .stages import Bounds

_LARGEST = 2.0**40  # squared lengths within which, and within whose inverse, nothing is scaled
_SPREAD = 2.0**-60  # of the largest: what is shorter is looked at apart


def select_usual(
    features: Tensor, weights: Tensor | None, k: int, bounds: Bounds
) -> Selection | None:
    """`select` k <= N tokens of features [N, D] with weights [N] of the right shape.

    None if anything is odd: entries or weights that are not finite, negative or zero weights, zero
    rows, lengths far from 1 or from each other, or fewer tokens than k that explain everything.
    """
    rows = features.detach().contiguous().numpy()
    scale = np.empty(0)
    if weights is not None:
        # Rounded once, as wherever products are taken in the features' dtype.
        scale = weights.detach().to(features.dtype).double().numpy()
        if not scale.min() > 0:
            return None
    value = np.empty(len(rows))
    loops.squares(rows, scale, value)
    largest = value.max()
    if not (1 / _LARGEST <= largest <= _LARGEST and value.min() >= _SPREAD * largest):
        return None
    order, energy = np.empty(k, np.int64), np.empty(k + 1)
    energy[0] = np.add.reduce(value)
    factor = made(torch.float64, k, wide(len(rows)))
    bar = max(bounds.trust, bounds.floor[0]) * largest
    picked = loops.advance_exactly(
        rows, scale, value, factor, order, energy, 0, k, bounds.near, bar, -1.0
    )
    if picked < k:
        return None
    residual = (energy / energy[0]).astype(rows.dtype)
    return Selection(torch.from_numpy(order), torch.from_numpy(residual), torch.tensor(k))
