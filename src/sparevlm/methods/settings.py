"""Checks of a method's settings at construction: one sentence that says what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparevlm.budgets import is_integer, is_real


def _refuse(method: Any, field: str, words: str) -> None:
    value = getattr(method, field)
    raise ValueError(f"{type(method).__name__}({field}={value!r}): {field} must be {words}")


def check_choice(method: Any, field: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless the field holds one of the allowed words."""
    if getattr(method, field) not in allowed:
        _refuse(method, field, "one of " + ", ".join(f'"{word}"' for word in allowed))


def check_number(method: Any, field: str, allowed: Callable[[float], bool], words: str) -> None:
    """Raise ValueError unless the field holds a finite number that is allowed."""
    value = getattr(method, field)
    if not is_real(value) or not allowed(value):
        _refuse(method, field, f"a number {words}")


def check_count(method: Any, field: str) -> None:
    """Raise ValueError unless the field holds a positive integer."""
    value = getattr(method, field)
    if not is_integer(value) or value < 1:
        _refuse(method, field, "a positive integer")


def check_seed(method: Any, field: str = "seed") -> None:
    """Raise ValueError unless the field holds an integer that a generator takes as seed."""
    value = getattr(method, field)
    if not is_integer(value) or not 0 <= value < 2**63:
        _refuse(method, field, "an integer >= 0")


def check_flag(method: Any, field: str) -> None:
    """Raise ValueError unless the field holds True or False."""
    if not isinstance(getattr(method, field), bool):
        _refuse(method, field, "True or False")
