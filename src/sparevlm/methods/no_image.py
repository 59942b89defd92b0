"""No visual token at all: what a model answers from the question alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.budgets import Budget
from sparevlm.methods.base import PruningMethod
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class NoImage(PruningMethod):
    """Drop all visual tokens: the score that needs no picture.

    Parameters
    ----------
    keep : int, float or Residual
        Not used; there so that all methods are made alike.
    """

    name: ClassVar[str] = "no-image"
    paper: ClassVar[str] = "control"
    keeps: ClassVar[str] = "nothing"
    by_place: ClassVar[bool] = True
    bounds_error: ClassVar[bool] = True

    keep: Budget = 1

    def budget(self, tokens: VisualTokens) -> int:
        """See `PruningMethod.budget`: none."""
        return 0

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """See `PruningMethod.reduce`."""
        return Reduction(torch.zeros(0, dtype=torch.int64, device=tokens.features.device))
