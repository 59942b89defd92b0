"""Pivoted selection by the fused GPU kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from sparevlm.kernels.pivoting import DEEP, PivotedRun

from .checks import bad_row, can_look
from .stages import Bounds


class FusedRun(PivotedRun):
    """A `PivotedRun` that names bad rows, once everything has been launched."""

    def __init__(
        self, images: Tensor, weights: Tensor | None, k: int, names: list[str], bounds: Bounds
    ) -> None:
        super().__init__(images.detach(), weights, k, bounds.near, bounds.trust, bounds.floor)
        self._names = names

    @property
    def steps(self) -> int:
        """Tokens that every image has picked, or would have, had it not stopped for itself."""
        return int(self.done.max())

    def look(self) -> tuple[list[int], bool]:
        """See `Run`; raises ValueError if features held NaN or infinity."""
        if not can_look(self.state):
            return [], False
        if not bool(self.state.any()):  # the one wait
            return [], True
        bad = self.bad()
        if bool(bad.any()):
            image, row = torch.nonzero(bad)[0].tolist()
            raise bad_row(self._names[image], row)
        return torch.nonzero(self.state == DEEP.value)[:, 0].tolist(), False
