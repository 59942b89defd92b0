"""Strong rank-revealing QR as a method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import PickingMethod
from sparevlm.methods.settings import check_number
from sparevlm.selection import checked_rows, strong_rrqr
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class StrongRRQR(PickingMethod):
    """Gu and Eisenstat's strong rank-revealing QR (SIAM J. Sci. Comput. 1996).

    SPARE's pivots, then exchanges of a kept token i with another j while one multiplies the volume
    that the kept ones span, sqrt(C_ij^2 + (gamma_j / omega_i)^2), by more than `factor`.

    Parameters
    ----------
    factor : float
        At least 1; smaller makes more exchanges.
    """

    name: ClassVar[str] = "strong-rrqr"
    paper: ClassVar[str] = "Gu and Eisenstat, SIAM J. Sci. Comput. 17, 1996"
    keeps: ClassVar[str] = "pivots, exchanged while that enlarges their volume"

    factor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "factor", lambda f: f >= 1, "of at least 1")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        return Reduction.picked(strong_rrqr(checked_rows(tokens.features), k, self.factor))
