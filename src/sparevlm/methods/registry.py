"""Methods by name: those of this package, and those that others offer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from sparevlm.budgets import Budget, is_integer, read_budget
from sparevlm.methods.base import _REGISTRY, NEEDS, PruningMethod
from sparevlm.plugins import METHODS, offered


def works_with(cls: type[PruningMethod]) -> list[str]:
    """What a method works with, beside a supported model: a few words each; none: with any."""
    return list(dict.fromkeys(words for need, words in NEEDS.items() if need in cls.needs))


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", name.lower())


def _known() -> dict[str, type[PruningMethod]]:
    """All methods; those of other packages register themselves when their entry point is loaded."""
    offered(METHODS)
    return _REGISTRY


def list_methods(*, inside: bool | None = False) -> list[str]:
    """Names of methods, sorted; each works in `get_method` and on the command line.

    Parameters
    ----------
    inside : bool or None
        Those that work before the language model (False), between its layers (True), or all (None).
    """
    return sorted(name for name, cls in _known().items() if inside in (None, cls.inside))


def method_class(name: str) -> type[PruningMethod]:
    """Class of a method by its name or class name; case, "-" and "_" do not matter.

    Raises
    ------
    ValueError
        If there is no such method; the message lists those there are.
    """
    for known, cls in _known().items():
        if isinstance(name, str) and _key(name) in (_key(known), _key(cls.__name__)):
            return cls
    names = list_methods(inside=None)
    near = get_close_matches(str(name).lower(), names, n=1)
    meant = f"did you mean {near[0]!r}? Else " if near else ""
    raise ValueError(f"no method is named {name!r}: {meant}choose one of {', '.join(names)}")


def get_method(name: str, keep: Budget, **settings: Any) -> PruningMethod:
    """Make a method by name, for example ``get_method("spare", keep=64)``.

    Parameters
    ----------
    name : str
        One of `list_methods`, or a class name.
    keep : int, float or Residual
        The budget.
    settings
        Further fields of the method.

    Raises
    ------
    ValueError
        If there is no such method or setting, or a value is not allowed.
    """
    cls = method_class(name)
    known = [f.name for f in fields(cls)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise ValueError(
            f"{cls.__name__} has no setting {', '.join(unknown)}: it has {', '.join(known)}"
        )
    return cls(keep, **settings)


def read_method(name: str, keep: Any, settings: Mapping[str, Any] | None = None) -> PruningMethod:
    """Make a method of what a person, a request or a configuration file says.

    Parameters
    ----------
    name : str
        As `method_class` takes it.
    keep : int, float, Residual or str
        The budget; as text "64", "0.1" or "10%".
    settings : mapping
        Fields of the method; a whole number may stand for a real one.

    Raises
    ------
    ValueError
        As `get_method` does.
    """
    real = {f.name for f in fields(method_class(name)) if isinstance(f.default, float)}
    values = {
        field: float(value) if field in real and is_integer(value) else value
        for field, value in (settings or {}).items()
    }
    return get_method(name, read_budget(keep) if isinstance(keep, str) else keep, **values)
