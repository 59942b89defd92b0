"""How many tokens stay: counts, shares and error targets, and how people write them."""

from __future__ import annotations

import ast
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
    """Read "64" tokens, "0.1" or "10%" of them, or "Residual(0.05)".

    Returns
    -------
    int, float, Residual or str
        What is no budget comes back as it is, for the method to refuse.

    Raises
    ------
    ValueError
        If the error or the bounds of a `Residual` are not allowed.
    """
    text = text.strip()
    if re.match(r"residual\s*\(", text, re.IGNORECASE):
        return _read_residual(text)
    try:
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return text


def read_budgets(text: str) -> list[Any]:
    """Read budgets with commas between them, each as `read_budget` does."""
    return [read_budget(part) for part in re.split(r",(?![^(]*\))", text)]


def _read_residual(text: str) -> Any:
    try:
        call = ast.parse(text, mode="eval").body
        if not isinstance(call, ast.Call):
            return text
        given = [ast.literal_eval(value) for value in call.args]
        named = {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}
    except (SyntaxError, ValueError):
        return text
    try:
        return Residual(*given, **named)
    except TypeError:  # too many, or of other names
        return text


def written_budget(keep: Budget) -> str:
    """A budget as reports name it, and `read_budget` reads it."""
    if isinstance(keep, Residual):
        bounds = "" if keep.minimum == 1 else f", minimum={keep.minimum}"
        bounds += "" if keep.maximum is None else f", maximum={keep.maximum}"
        return f"Residual({keep.error:g}{bounds})"
    return f"{keep}" if is_integer(keep) else f"{100 * keep:.4g}%"
