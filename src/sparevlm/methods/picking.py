"""The base class of methods that pick among the tokens of a picture."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparevlm.methods.base import PruningMethod
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class PickingMethod(PruningMethod):
    """A method that sees no separators: it implements `pick` instead of `reduce`."""

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """See `PruningMethod.reduce`."""
        seen, k = tokens.only_candidates(), self.budget(tokens)
        if self.merges and k == len(seen):  # nothing to merge
            checked_rows(seen.features)
            return Reduction(tokens.candidate_indices())
        reduction = self.pick(seen, k)
        if reduction.features is not None:
            reduction = replace(reduction, features=reduction.features.to(tokens.features.dtype))
        return reduction.among(tokens.candidate_indices(), len(tokens))

    @abstractmethod
    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """Choose k of N >= k tokens, all of which may be kept. Does not change its argument."""


def largest(scores: Tensor, k: int) -> Tensor:
    """The k largest of scores [N], largest first; ties go to the lowest index."""
    return scores.argsort(descending=True, stable=True)[:k]


def first_argmax(values: Tensor) -> Tensor:
    """Column [M] of the largest value of each row [M, N]; ties go to the lowest index."""
    columns = torch.arange(values.shape[1], device=values.device)
    best = values == values.amax(1, keepdim=True)
    return torch.where(best, columns, values.shape[1]).amin(1)


def min_max(values: Tensor) -> Tensor:
    """Scale values [N] linearly to [0, 1]; all equal gives zeros."""
    low, high = values.min(), values.max()
    spread = high - low
    return ((values - low) / spread.clamp(min=1e-12)).clamp(0, 1)
