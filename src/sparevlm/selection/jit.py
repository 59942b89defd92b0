"""How loops are compiled by numba, which is imported here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

FUSED = {"contract"}
"""A product and a sum may be rounded once; each number is still computed in one way."""

ANY_ORDER = {"contract", "reassoc", "nnan", "nsz"}
"""Sums may be taken in another order, of values that are no NaN."""


def jit(signatures: list[Any], fastmath: set[str]) -> Callable[[Callable], Any]:
    """Compile for these types, now; what was compiled before is read from numba's cache."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}

    def compiled(function: Callable) -> Any:
        try:
            return njit(signatures, cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in
            return njit(signatures, **options)(function)

    return compiled
