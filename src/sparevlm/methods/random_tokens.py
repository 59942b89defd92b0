"""Random tokens: the control that every table needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.seeded import SeededMethod
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class RandomTokens(SeededMethod):
    """Keep tokens drawn uniformly without replacement.

    The draw depends on the seed and the number of candidates alone: every image of one size gets
    the same, in whatever batch it comes and on every device, and a smaller budget a subset of it.
    """

    name: ClassVar[str] = "random"
    paper: ClassVar[str] = "control"
    keeps: ClassVar[str] = "tokens drawn with a seed"
    by_place: ClassVar[bool] = True
    nested: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows = checked_rows(tokens.features)
        drawn = torch.randperm(len(rows), generator=self.generator())[:k]
        return Reduction.picked(drawn.to(rows.device))
