"""Random tokens: the control that every table needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.base import PruningMethod
from sparevlm.tokens import Reduction, VisualTokens, _is_integer


@dataclass(frozen=True)
class RandomTokens(PruningMethod):
    """Keep tokens drawn uniformly without replacement.

    The draw depends on the seed and the number of candidates alone: every image of one size gets
    the same, in whatever batch it comes and on every device, and a smaller budget a subset of it.

    Parameters
    ----------
    seed : int
        Any integer >= 0.
    """

    name: ClassVar[str] = "random"
    paper: ClassVar[str] = "control"

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _is_integer(self.seed) or not 0 <= self.seed < 2**63:
            raise ValueError(f"RandomTokens(seed={self.seed!r}): the seed must be an integer >= 0")

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """See `PruningMethod.reduce`."""
        candidates = tokens.candidate_indices()
        generator = torch.Generator().manual_seed(int(self.seed))  # on the CPU: same everywhere
        drawn = torch.randperm(len(candidates), generator=generator)[: self.budget(tokens)]
        order = candidates[drawn.to(candidates.device)]
        return Reduction(indices=order.sort().values, order=order)
