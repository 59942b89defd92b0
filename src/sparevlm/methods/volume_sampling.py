"""Volume sampling as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.seeded import SeededMethod
from sparevlm.selection import checked_rows, volume_sample
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class VolumeSampling(SeededMethod):
    """Draw the k tokens S with probability proportional to det(X_S X_S^T) (Deshpande et al., 2006).

    The determinantal process whose greedy maximum SPARE takes; in expectation its squared error is
    within k + 1 times the best of rank k.
    """

    name: ClassVar[str] = "volume"
    paper: ClassVar[str] = "Deshpande et al., Theory of Computing 2, 2006"
    keeps: ClassVar[str] = "a draw by squared volume"
    by_place: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows = checked_rows(tokens.features)
        return Reduction.picked(volume_sample(rows, k, self.generator()))
