"""Pivoted selection by the fused GPU kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from sparevlm.kernels.pivoting import PivotedRun

from .checks import bad_row, can_look


class FusedRun(PivotedRun):
    """A `PivotedRun` that names bad rows, once everything has been launched."""

    def __init__(
        self, images: Tensor, weights: Tensor | None, k: int, names: list[str], near: float,
        floor: float,
    ) -> None:  # fmt: skip
        super().__init__(images.detach(), weights, k, near, floor)
        self._names = names

    @property
    def steps(self) -> int:
        """Tokens that every image has picked, or would have, had it not reached its tolerance."""
        return int(self.done.max())

    def order(self, steps: int) -> Tensor:
        """See `PivotedRun`; raises ValueError if features held NaN or infinity."""
        bad = self.bad()
        if can_look(bad) and bool(bad.any()):
            image, row = torch.nonzero(bad)[0].tolist()
            raise bad_row(self._names[image], row)
        return super().order(steps)
