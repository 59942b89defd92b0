"""``--set``: settings of methods on the command line."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

WORDS = {"true": True, "false": False}


def add_set(add: Any) -> None:
    """Add the option to a command."""
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the method (strength=0.5, per=prompt), or of one of several "
        "(spare.strength=0.5); may be given again",
    )


def read_set(given: Sequence[str], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings of each of the named methods.

    Parameters
    ----------
    given : sequence of str
        "name=value", for every method that has such a setting, or "method.name=value".
    methods : sequence of str
        Names of methods.

    Raises
    ------
    ValueError
        If there is no such method or setting. Values are checked by the methods themselves.
    """
    from sparevlm.methods import method_class

    classes = {method_class(name).name: method_class(name) for name in methods}
    read: dict[str, dict[str, Any]] = {name: {} for name in classes}
    for pair in given:
        left, equals, text = pair.partition("=")
        owner, dot, name = left.strip().rpartition(".")
        if not equals or not name:
            raise ValueError(f"--set {pair}: give a name and a value, such as strength=0.5")
        if name == "keep":
            raise ValueError(f"--set {pair}: the budget is --keep")
        owners = [method_class(owner).name] if dot else list(classes)
        if not set(owners) <= set(classes):
            raise ValueError(f"--set {pair}: {owners[0]} is none of {', '.join(classes)}")
        having = [o for o in owners if name in {field.name for field in fields(classes[o])}]
        if not having:
            known = [field.name for field in fields(classes[owners[0]]) if field.name != "keep"]
            raise ValueError(
                f"--set {pair}: {' and '.join(owners)} has no such setting; {owners[0]} has "
                f"{', '.join(known)}"
            )
        for one in having:
            default = next(f.default for f in fields(classes[one]) if f.name == name)
            read[one][name] = _value(text.strip(), default)
    return read


def _value(text: str, default: Any) -> Any:
    if text.lower() == "none" and default is None:  # elsewhere it is a word
        return None
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text  # a word
