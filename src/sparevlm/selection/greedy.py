"""The greedy loop that all selectors share; what they maximise is a `Gain`."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sparevlm.kernels import usable

from . import rows as many


class Gain(ABC):
    """What a greedy selector maximises at each step, and how a pick changes it.

    Attributes
    ----------
    value : Tensor [.., N]
        What each token would bring if it were picked now; -inf for picked ones. Rules change it in
        place or replace it. Leading dimensions are images that run in step.
    near : float
        Values of at least `near` times the largest are ties; below 1 only where values are never
        negative.
    """

    value: Tensor
    near: float = 1.0

    def refresh(self, left: int) -> None:  # noqa: B027
        """Bring `value` up to date as far as its maximum needs; `left` picks are still to come."""

    def finished(self, t: int, best: Tensor) -> bool:
        """Whether to stop before pick t; best [.., 1] is the largest value."""
        return False

    @abstractmethod
    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        """Update after pick t: token indices pick [.., 1], int64, whose value is about `best`."""


def run_greedy(gain: Gain, order: Tensor, start: int, stop: int) -> int:
    """Pick the token of the largest value, again and again; ties go to the lowest index.

    Parameters
    ----------
    gain : Gain
        Holds the state, so that a run can stop and go on.
    order : Tensor [k, .., 1], int64
        Takes the picks `start` to `stop` - 1.

    Returns
    -------
    int
        How many picks there are now: `stop`, or fewer if `gain` had finished.
    """
    n = gain.value.shape[-1]
    tokens = torch.arange(n, device=gain.value.device)
    none = torch.full((), n, device=gain.value.device)
    for t in range(start, stop):
        gain.refresh(stop - t)
        best = gain.value.amax(-1, keepdim=True)
        if gain.finished(t, best):
            return t
        # Not argmax: of equal values it may return any on a GPU.
        bar = best if gain.near == 1 else best * gain.near
        tied = torch.where(gain.value >= bar, tokens, none)
        pick = torch.amin(tied, -1, keepdim=True, out=order[t])
        gain.take(t, pick, best)
    return stop


@torch.no_grad()
def greedy_order(gain: Gain, k: int) -> Tensor:
    """Pick k tokens of one image: order [k], int64. `gain.value` is [N] with N >= k."""
    order = torch.zeros(k, 1, dtype=torch.int64, device=gain.value.device)
    picked = run_greedy(gain, order, 0, k)
    return order[:picked, 0]


def too_many_pairs(rows: Tensor) -> bool:
    """Whether all pairs of rows [N, D] are too many for a matrix, and no kernel would want it."""
    return len(rows) > many.LARGE and not in_one_launch(rows)


def in_one_launch(matrix: Tensor, *vectors: Tensor) -> bool:
    """Whether a kernel can run the loop over matrix [.., N, M] and vectors, all of them float32."""
    narrow = all(values.dtype == torch.float32 for values in (matrix, *vectors))
    return narrow and usable(matrix) and usable(matrix.mT)
