"""Model arguments of a benchmark suite as a model and a method."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, NamedTuple

from sparevlm.guide import RELEVANCE
from sparevlm.methods import PruningMethod, list_methods, method_class, read_method

UNPRUNED = "none"


class Plan(NamedTuple):
    """What to load and how to prune it.

    Attributes
    ----------
    pretrained : str
    dtype, device : str or None
    method : PruningMethod or None
        None: all tokens.
    relevance : str
    """

    pretrained: str
    dtype: str | None
    device: str | None
    method: PruningMethod | None
    relevance: str


def read_plan(
    pretrained: str = "pocket",
    method: str = "spare",
    keep: Any = None,
    relevance: str = "auto",
    dtype: str | None = None,
    device: str | None = None,
    **settings: Any,
) -> Plan:
    """Check the arguments, as text or as numbers, and make the method.

    Parameters
    ----------
    pretrained : str
        As `sparevlm.load` takes it.
    method : str
        A name of `list_methods(inside=None)`, a class name, or "none" for the unpruned model.
    keep : int, float or str
        Tokens, or a share of them such as 0.111 or "11.1%"; methods need it.
    relevance : str
        One of `RELEVANCE`.
    settings
        Fields of the method, such as guidance or seed.

    Raises
    ------
    ValueError
        Saying which argument is wrong and what is allowed.
    """
    if relevance not in RELEVANCE:
        raise ValueError(f"relevance={relevance!r}: give one of {', '.join(RELEVANCE)}")
    if method == UNPRUNED:
        unused = sorted(settings | ({} if keep is None else {"keep": keep}))
        if unused:
            raise ValueError(f"method=none prunes nothing, and {', '.join(unused)} was given")
        return Plan(str(pretrained), dtype, device, None, relevance)
    try:
        cls = method_class(method)
    except ValueError:
        names = ", ".join([UNPRUNED, *list_methods(inside=None)])
        raise ValueError(f"no method is named {method!r}: there are {names}") from None
    if keep is None:
        raise ValueError("how many tokens to keep is missing: give keep=64, or keep=11.1%")
    allowed = [field.name for field in fields(cls) if field.name != "keep"]
    for name in settings:
        if name not in allowed:
            known = ", ".join(["pretrained", "method", "keep", "relevance", "dtype", *allowed])
            raise ValueError(f"no argument is named {name!r}: {cls.name} takes {known}")
    made = read_method(method, keep, settings)
    return Plan(str(pretrained), dtype, device, made, relevance)
