"""What methods that draw have in common: an explicit seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparevlm.methods.picking import PickingMethod
from sparevlm.methods.settings import check_seed


@dataclass(frozen=True)
class SeededMethod(PickingMethod):
    """A method that draws; the same seed draws the same, on every device and in every batch.

    Parameters
    ----------
    seed : int
        Any integer >= 0.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self)

    def generator(self) -> torch.Generator:
        """A fresh generator, on the CPU so that all devices draw alike."""
        return torch.Generator().manual_seed(int(self.seed))
