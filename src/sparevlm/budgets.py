"""How many tokens stay: counts, shares and error targets, and how people write them."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Residual:
    """A budget by quality: as few tokens as leave at most `error` of the energy unexplained.

    Parameters
    ----------
    error : float
        Relative squared residual allowed, in (0, 1): sum_i w_i^2 |x_i - P x_i|^2 over
        sum_i w_i^2 |x_i|^2, with P the projection onto the span of the kept rows and w_i the
        weights of the method (1 without guidance).
    minimum, maximum : int
        Bounds of the number of tokens kept; None: no upper bound.

    Raises
    ------
    ValueError
        If `error` lies outside (0, 1), or the bounds are no positive integers in order.
    """

    error: float
    minimum: int = 1
    maximum: int | None = None

    def __post_init__(self) -> None:
        if not is_real(self.error) or not 0 < self.error < 1:
            raise ValueError(
                f"Residual(error={self.error!r}): the error must be a number between 0 and 1, "
                "such as 0.05 for 5 % of the feature energy left unexplained"
            )
        for name in ("minimum", "maximum"):
            value = getattr(self, name)
            if name == "maximum" and value is None:
                continue
            if not is_integer(value) or value < 1:
                raise ValueError(f"Residual({name}={value!r}): it must be a positive integer")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(
                f"Residual(minimum={self.minimum}, maximum={self.maximum}): "
                "the maximum must not be below the minimum"
            )


Budget = int | float | Residual


def check_budget(keep: Any) -> None:
    """Raise ValueError unless `keep` is a budget: an int >= 1, a float in (0, 1], a `Residual`."""
    if isinstance(keep, Residual):
        return
    hint = (
        "give a positive integer (tokens per image), a fraction above 0 and at most 1.0, "
        "or Residual(0.05)"
    )
    if is_integer(keep):
        if keep < 1:
            raise ValueError(f"keep={keep!r} leaves no tokens: {hint}")
    elif is_real(keep):
        if not 0 < keep <= 1:  # false for NaN too
            raise ValueError(f"keep={keep!r} is no fraction of the tokens: {hint}")
    else:
        raise ValueError(f"keep={keep!r} is no budget: {hint}")


def budget_tokens(keep: int | float, available: int) -> int:
    """How many of `available` tokens a count or fraction keeps: at least 1, at most all."""
    wanted = int(keep) if is_integer(keep) else round(float(keep) * available)
    return min(max(wanted, 1), available)


def is_integer(value: Any) -> bool:
    """Whether this is an integer, and no bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether this is a finite real number, and no bool."""
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


def read_budget(text: str) -> Any:
    """Read "64" tokens, "0.1" or "10%" of them.

    Returns
    -------
    int, float or str
        What is no number comes back as it is, for the method to refuse.
    """
    text = text.strip()
    try:
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return text
