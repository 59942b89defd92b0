"""What a method's docstring says of its fields: inherited ones as the base class tells them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

PARAMETERS = "Parameters"


def sections(doc: str) -> dict[str, str]:
    """A docstring in numpy's convention by title; what stands above the first has the title ""."""
    head, *parts = re.split(r"\n(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(doc))
    return {"": head, **dict(zip(parts[::2], parts[1::2], strict=True))}


def entries(text: str) -> dict[str, str]:
    """Entries of a section of parameters, as written; by name, or by names that share one."""
    parts = re.split(r"^(?=\S)", text, flags=re.M)
    return {part.partition(" : ")[0]: part.rstrip() for part in parts if part.strip()}


def tell_fields(cls: type[Any]) -> None:
    """Add to a class's parameters what the classes above it say of theirs.

    In the order of the signature: what may be given by place comes before the class's own fields,
    what must be named behind them. A class without a docstring stays without.
    """
    if cls.__doc__ is None:
        return
    told = sections(cls.__doc__)
    own = entries(told.get(PARAMETERS, ""))
    names = {name for key in own for name in key.split(", ")}
    above = {name: text for name, text in _above(cls).items() if name not in names}
    named = {
        name: field.kw_only
        for base in cls.__mro__
        for name, field in getattr(base, "__dataclass_fields__", {}).items()
    }
    first = [text for name, text in above.items() if not named.get(name)]
    last = [text for name, text in above.items() if named.get(name)]
    whole = "\n".join([*first, *own.values(), *last])
    if whole:
        rest = {title: text for title, text in told.items() if title not in ("", PARAMETERS)}
        cls.__doc__ = _joined({"": told[""], PARAMETERS: whole, **rest})


def _above(cls: type[Any]) -> dict[str, str]:
    """What the nearest class above says of each field."""
    found: dict[str, str] = {}
    for base in cls.__mro__[1:]:
        for name, text in entries(sections(base.__doc__ or "").get(PARAMETERS, "")).items():
            if name in getattr(base, "__dataclass_fields__", {}):
                found.setdefault(name, text)
    return found


def _joined(told: Mapping[str, str]) -> str:
    parts = [told[""].strip()]
    parts += [f"{title}\n{'-' * len(title)}\n{told[title].strip()}" for title in told if title]
    return "\n\n".join(parts) + "\n"
