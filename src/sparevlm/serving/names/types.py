"""What expressions in our code are, as far as imports and annotations tell."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import NamedTuple

from sparevlm.serving.names.signatures import decorators
from sparevlm.serving.names.sources import Sources, Thing, is_overload, statements

Function = ast.FunctionDef | ast.AsyncFunctionDef
_ROWS = {"Iterable", "Sequence", "list", "tuple"}


class Value(NamedTuple):
    """What an expression is.

    `how` is "module", "class", "instance", "items" (instances in a row), "function" or "super".
    Of a "function" `thing` is the class that has it, or itself; `node` its definition.
    """

    how: str
    thing: Thing
    node: ast.AST | None = None


@dataclass(frozen=True)
class Member:
    """What a class has under a name, and where it says so."""

    owner: Thing
    node: ast.AST

    @property
    def function(self) -> Function | None:
        """It, if it can be called."""
        if isinstance(self.node, Function) and not decorators(self.node) & {
            "property", "cached_property",
        }:  # fmt: skip
            return self.node
        return None

    @property
    def stub(self) -> bool:
        """Whether it is a method that does nothing, as protocols have them."""
        body = self.function.body if self.function else [ast.Pass()]
        return self.function is not None and all(
            isinstance(node, ast.Pass)
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node))
            for node in body
        )

    @property
    def home(self) -> str:
        """The class, dotted."""
        return f"{self.owner.module}.{self.owner.name}"


class Types:
    """Follows names and annotations through `sources`."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._members: dict[Thing, dict[str, ast.AST]] = {}
        self._orders: dict[Thing, list[Thing]] = {}

    def order(self, cls: Thing) -> list[Thing]:
        """See `Sources.order`."""
        if cls not in self._orders:
            self._orders[cls] = self.sources.order(cls)
        return self._orders[cls]

    def members(self, cls: Thing) -> dict[str, ast.AST]:
        """What a class itself defines, and what its methods set on self."""
        if cls not in self._members:
            node = cls.node
            self._members[cls] = _members(node) if isinstance(node, ast.ClassDef) else {}
        return self._members[cls]

    def member(self, classes: list[Thing], name: str) -> Member | None:
        """The first of these classes that has a name, as Python looks it up."""
        for cls in classes:
            if name in self.members(cls):
                return Member(cls, self.members(cls)[name])
        return None

    def of(self, thing: Thing | None) -> Value | None:
        """What a name stands for, as a value."""
        if thing is None or thing.kind == "unknown":
            return None
        if thing.kind == "value":
            return self._assigned(thing.module, thing.node)
        return Value(thing.kind, thing, thing.node)

    def annotated(self, module: str, note: ast.AST | None) -> Value | None:
        """An instance of what an annotation says; `X | None` is X."""
        if isinstance(note, ast.Constant) and isinstance(note.value, str):
            try:
                note = ast.parse(note.value, mode="eval").body
            except SyntaxError:
                return None
        if isinstance(note, ast.BinOp):
            sides = [self.annotated(module, side) for side in (note.left, note.right)]
            known = [side for side in sides if side is not None]
            return known[0] if len(known) == 1 else None
        if isinstance(note, ast.Subscript) and ast.unparse(note.value) in _ROWS:
            inner = self.annotated(module, note.slice)
            return inner and inner._replace(how="items")
        if not isinstance(note, ast.Name | ast.Attribute | ast.Subscript):
            return None
        found = self.sources.named(module, note)
        if found is not None and found.kind == "value":
            return self._bound(found)
        if found is None or found.kind != "class" or found.module == "builtins":
            return None
        return Value("instance", found)

    def _bound(self, variable: Thing) -> Value | None:
        """What a type variable stands for at least."""
        made = getattr(variable.node, "value", None)
        for word in made.keywords if isinstance(made, ast.Call) else ():
            if word.arg == "bound":
                return self.annotated(variable.module, word.value)
        return None

    def _assigned(self, module: str, node: ast.AST | None) -> Value | None:
        """What stands right of a name: an annotation, or a class that is called."""
        if isinstance(node, ast.AnnAssign):
            return self.annotated(module, node.annotation)
        value = getattr(node, "value", None)
        if isinstance(value, ast.Call):
            cls = self.sources.named(module, value.func)
            if cls is not None and cls.kind == "class":
                return Value("instance", cls)
        return None

    def of_member(self, member: Member) -> Value | None:
        """What `object.name` is."""
        module, node = member.owner.module, member.node
        if isinstance(node, Function):
            if member.function is None:  # a property
                return self.annotated(module, node.returns)
            return Value("function", member.owner, node)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            for method in ast.walk(member.owner.node or ast.Pass()):
                if isinstance(method, Function) and node in ast.walk(method):
                    notes = {one.arg: one.annotation for one in arguments(method)}
                    return self.annotated(module, notes.get(node.value.id))
        return self._assigned(module, node)


def arguments(node: Function | ast.Lambda) -> list[ast.arg]:
    """All arguments of a function but *args and **kwargs."""
    return [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]


def _members(cls: ast.ClassDef) -> dict[str, ast.AST]:
    found: dict[str, ast.AST] = {}
    own: dict[str, ast.AST] = {}
    for node in statements(cls.body):
        if isinstance(node, Function) and not is_overload(node):
            found.setdefault(node.name, node)
            for inner in ast.walk(node):
                for target in _targets(inner):
                    if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                        own.setdefault(target.attr, inner)
        elif isinstance(node, ast.ClassDef):
            found.setdefault(node.name, node)
        for target in _targets(node):
            if isinstance(target, ast.Name):
                found.setdefault(target.id, node)
    return own | found


def _targets(node: ast.AST) -> list[ast.AST]:
    if isinstance(node, ast.Assign):
        return [part for target in node.targets for part in ast.walk(target)]
    return [node.target] if isinstance(node, ast.AnnAssign) else []
