"""What a server or a request asks for, as a method; no vLLM in here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from sparevlm.budgets import Residual, budget_tokens, is_integer
from sparevlm.methods import PruningMethod, get_method, list_methods, method_class, read_method

KEY = "sparevlm"
DEFAULT = "spare"
VARIABLES = {"keep": "SPAREVLM_KEEP", "method": "SPAREVLM_METHOD"}
_HOW = 'such as {"sparevlm": {"keep": 64}}'


@dataclass(frozen=True)
class Settings:
    """How the pictures and videos of one request are pruned.

    Attributes
    ----------
    method : PruningMethod
        With a count or fraction as budget.
    question : str
        What the user asks, for a method guided by it; "" otherwise.
    """

    method: PruningMethod
    question: str = ""

    @property
    def guided(self) -> bool:
        """Whether the choice depends on the question."""
        return "query" in self.method.requires

    def tokens(self, available: int) -> int:
        """How many of `available` tokens a budget leaves."""
        return budget_tokens(self.method.keep, available)  # type: ignore[arg-type]

    def keeping(self, count: int) -> Settings:
        """The same with a count as budget."""
        return replace(self, method=replace(self.method, keep=count))

    def placed(self, positions: str) -> Settings:
        """The same with "original" or "compact" positions."""
        return replace(self, method=replace(self.method, positions=positions))  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` takes: keep, method, and what differs from its defaults."""
        values = {f.name: getattr(self.method, f.name) for f in fields(self.method)}
        defaults = {f.name: f.default for f in fields(self.method)}
        told = {name: v for name, v in values.items() if name == "keep" or v != defaults[name]}
        told["method"] = self.method.name
        return told | ({"question": self.question} if self.question else {})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """What `as_dict` gave."""
        rest = dict(values)
        question = rest.pop("question", "")
        return cls(get_method(rest.pop("method"), **rest), question)


def from_environment() -> dict[str, Any]:
    """What SPAREVLM_KEEP and SPAREVLM_METHOD say."""
    return {name: os.environ[v] for name, v in VARIABLES.items() if os.environ.get(v)}


def read_settings(*layers: Any, positions: tuple[str, ...]) -> Settings | None:
    """Merge and check what was asked for; None: nothing is pruned.

    Parameters
    ----------
    layers : mapping, int, float, str or None
        Each a mapping with keep, method and fields of the method, or a budget alone; what comes
        first wins. A layer that names a method hides the fields of the layers after it, all but
        keep.
    positions : tuple of str
        Those of "original" and "compact" that this server can give.

    Raises
    ------
    ValueError
        Saying what is wrong and what is allowed.
    """
    merged: dict[str, Any] = {}
    named = False
    for layer in layers:
        asked = _mapping(layer)
        merged = {
            **{name: v for name, v in asked.items() if not named or name == "keep"},
            **merged,
        }
        named = named or "method" in asked
    keep = merged.pop("keep", None)
    name = merged.pop("method", DEFAULT)
    if keep is None and not named and not merged:
        return None
    cls = _class(name)
    if keep is None:
        raise ValueError(f"{KEY}: how many tokens to keep is missing: give keep, {_HOW}")
    if cls.name == DEFAULT and "guidance" not in merged and "strength" not in merged:
        merged["guidance"] = "none"  # a guided choice is of no use to the prefix cache
    try:
        method = read_method(name, keep, merged)
    except ValueError as error:
        raise ValueError(f"{KEY}: {error}") from None
    _check(method, positions)
    everything = not is_integer(method.keep) and method.keep == 1
    return None if everything else Settings(method)


def _mapping(layer: Any) -> dict[str, Any]:
    if layer is None:
        return {}
    if isinstance(layer, Mapping):
        return {str(name): value for name, value in layer.items() if value is not None}
    if isinstance(layer, bool) or not isinstance(layer, int | float | str):
        raise ValueError(f"{KEY}={layer!r} is no setting: give an object {_HOW}")
    return {"keep": layer}


def servable() -> list[str]:
    """Names of the methods that a server can run: they need features, and at most the question."""
    return [
        name
        for name in list_methods()
        if not method_class(name).needs - {"query"}
        and method_class(name).budget is PruningMethod.budget
    ]


def _class(name: Any) -> type[PruningMethod]:
    names = ", ".join(servable())
    try:
        cls = method_class(name)
    except ValueError:
        raise ValueError(f"{KEY}: no method is named {name!r}: give one of {names}") from None
    if cls.name not in servable():
        raise ValueError(f"{KEY}: {cls.name} {_why_not(cls)}: give one of {names}")
    return cls


def _why_not(cls: type[PruningMethod]) -> str:
    """Why a server cannot run a method."""
    if cls.inside:
        return (
            "works between the layers of the language model, which in vLLM share one length of the "
            "KV cache"
        )
    missing = sorted(cls.needs - {"query"})
    if missing:
        needs = " and ".join(missing).replace("_", " ")
        return f"needs {needs}, which vLLM's vision encoder does not give out"
    return "keeps no number of tokens that is known beforehand"


def _check(method: PruningMethod, positions: tuple[str, ...]) -> None:
    if isinstance(method.keep, Residual):  # only from Python
        raise ValueError(
            f"{KEY}: vLLM must know how many tokens a picture takes before it is encoded, so keep "
            "cannot be a Residual: give a number of tokens or a fraction"
        )
    if method.per == "tile":
        raise ValueError(
            f'{KEY}: per="tile" is not for serving: give per="image" (a picture, or a frame of a '
            'video) or per="prompt" (all of them jointly)'
        )
    if method.positions not in ("auto", *positions):
        raise ValueError(
            f'{KEY}: positions="{method.positions}" is not to be had from this server, which gives '
            f"{' or '.join(positions)} ones: leave it out"
        )
