"""Suppression: the best score, which then lowers the scores of its likes, again and again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .checks import check_k
from .greedy import Gain, greedy_order


class _Suppressed(Gain):
    def __init__(self, scores: Tensor, likeness: Callable[[Tensor], Tensor]) -> None:
        self.value = scores.clone()
        self._likeness = likeness

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        self.value = self.value - self._likeness(pick) * best
        self.value.index_fill_(0, pick, -torch.inf)


@torch.no_grad()
def suppress(scores: Tensor, k: int, likeness: Callable[[Tensor], Tensor]) -> Tensor:
    """Pick k tokens, each lowering S_i by likeness_i S_best for all others.

    Parameters
    ----------
    scores : Tensor [N], float
    k : int
        How many to pick; ``k >= N`` picks all N.
    likeness : callable
        Token [1], int64 -> how much alike [N] all tokens are to it.

    Returns
    -------
    Tensor [k], int64
        Tokens in the order picked. Ties go to the lowest index.
    """
    return greedy_order(_Suppressed(scores, likeness), min(check_k(k), len(scores)))
