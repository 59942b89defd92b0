"""Signatures read off definitions, and whether a call or an override fits them."""

from __future__ import annotations

import ast
from inspect import Parameter, Signature

_PLACED = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class _Default:
    """A default as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def decorators(node: ast.AST) -> set[str]:
    """Last names of what decorates a definition, such as "staticmethod"."""
    marks = getattr(node, "decorator_list", [])
    named = [mark.func if isinstance(mark, ast.Call) else mark for mark in marks]
    return {ast.unparse(mark).rpartition(".")[2] for mark in named}


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef, *, bound: bool = False) -> Signature:
    """Of a function, without annotations; `bound`: of a method, without self or cls."""
    given = node.args
    placed = [*given.posonlyargs, *given.args]
    defaults = [None] * (len(placed) - len(given.defaults)) + list(given.defaults)
    found = []
    for i, (one, default) in enumerate(zip(placed, defaults, strict=True)):
        kind = (
            Parameter.POSITIONAL_ONLY
            if i < len(given.posonlyargs)
            else Parameter.POSITIONAL_OR_KEYWORD
        )
        found.append(_parameter(one, kind, default))
    if given.vararg:
        found.append(_parameter(given.vararg, Parameter.VAR_POSITIONAL, None))
    for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        found.append(_parameter(one, Parameter.KEYWORD_ONLY, default))
    if given.kwarg:
        found.append(_parameter(given.kwarg, Parameter.VAR_KEYWORD, None))
    if bound and "staticmethod" not in decorators(node):
        found = found[1:]
    return Signature(found)


def _parameter(one: ast.arg, kind: object, default: ast.expr | None) -> Parameter:
    shown = Parameter.empty if default is None else _Default(ast.unparse(default))
    return Parameter(one.arg, kind, default=shown)  # type: ignore[arg-type]


def of_fields(fields: dict[str, tuple[bool, bool]]) -> Signature:
    """What makes a dataclass; of each field whether it has a default, and goes by keyword only."""
    placed: list[Parameter] = []
    named: list[Parameter] = []
    for name, (default, keyword) in fields.items():
        kind = Parameter.KEYWORD_ONLY if keyword else Parameter.POSITIONAL_OR_KEYWORD
        shown = _Default("...") if default else Parameter.empty
        (named if keyword else placed).append(Parameter(name, kind, default=shown))
    required = [p for p in placed if p.default is Parameter.empty]
    return Signature([*required, *(p for p in placed if p not in required), *named])


def call_misfit(taken: Signature, call: ast.Call) -> str:
    """Why a call does not fit a signature; "" if it does."""
    parameters = list(taken.parameters.values())
    placed = [p for p in parameters if p.kind in _PLACED]
    kinds = {p.kind for p in parameters}
    starred = any(isinstance(one, ast.Starred) for one in call.args)
    given = len([one for one in call.args if not isinstance(one, ast.Starred)])
    keywords = {word.arg for word in call.keywords if word.arg}
    spread = any(word.arg is None for word in call.keywords)
    if given > len(placed) and Parameter.VAR_POSITIONAL not in kinds:
        return f"it takes {len(placed)} arguments by place, and is given {given}"
    by_name = {p.name for p in parameters if p.kind not in (*_FOR_REST, Parameter.POSITIONAL_ONLY)}
    for word in sorted(keywords - by_name):
        if Parameter.VAR_KEYWORD not in kinds:
            return f"it has no argument {word}"
    for i, one in enumerate(parameters):
        if one.kind in _FOR_REST or one.default is not Parameter.empty or one.name in keywords:
            continue
        filled = one.kind in _PLACED and (i < given or starred)
        if not filled and not (spread and one.kind is not Parameter.POSITIONAL_ONLY):
            return f"it needs {one.name}, which is not given"
    return ""


_FOR_REST = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


def override_misfit(stock: Signature, ours: Signature) -> str:
    """Why a call that fits the stock method may not fit ours; "" if each does."""
    theirs, own = list(stock.parameters.values()), list(ours.parameters.values())
    kinds = {p.kind for p in own}
    places = [p.name for p in own if p.kind in _PLACED]
    names = {p.name for p in own if p.kind not in (*_FOR_REST, Parameter.POSITIONAL_ONLY)}
    for i, one in enumerate(p for p in theirs if p.kind in _PLACED):
        by_place = i < len(places) or Parameter.VAR_POSITIONAL in kinds
        if not by_place and not (one.name in names or Parameter.VAR_KEYWORD in kinds):
            return f"our override takes no argument {one.name}"
        moved = one.name in places and places.index(one.name) != i
        if one.kind is not Parameter.POSITIONAL_ONLY and (
            moved or (one.name not in names and Parameter.VAR_KEYWORD not in kinds)
        ):
            return f"our override has another argument where it has {one.name}"
    for one in theirs:
        if one.kind is Parameter.KEYWORD_ONLY and one.name not in names:
            if Parameter.VAR_KEYWORD not in kinds:
                return f"our override takes no argument {one.name}"
        elif one.kind in _FOR_REST and one.kind not in kinds:
            return f"our override takes no {'*' if one.kind is _FOR_REST[0] else '**'}{one.name}"
    known = {p.name for p in theirs} | set(places[: len([p for p in theirs if p.kind in _PLACED])])
    for one in own:
        if one.kind not in _FOR_REST and one.default is Parameter.empty and one.name not in known:
            return f"our override needs {one.name}, which it is not given"
    return ""
