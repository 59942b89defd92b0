"""What the code of one function of ours uses, as far as types can be told."""

from __future__ import annotations

import ast
from inspect import Signature

from sparevlm.serving.names.found import Found, Use
from sparevlm.serving.names.signatures import call_misfit, decorators, of_fields, signature
from sparevlm.serving.names.sources import Thing
from sparevlm.serving.names.types import Function, Value, arguments


class Body:
    """One function of ours, or one statement."""

    def __init__(
        self, found: Found, module: str, node: ast.AST, owner: Thing | None,
        order: list[Thing], label: str = "",
    ) -> None:  # fmt: skip
        self.found, self.types, self.module, self.node = found, found.types, module, node
        self.owner, self.order, self.label = owner, order, label
        self.by = f"{owner.name}.{node.name}" if owner and isinstance(node, Function) else module
        self.names: dict[str, Value | None] = {}
        self._known: dict[ast.AST, Value | None] = {}

    def read(self) -> None:
        """Note all that it uses."""
        self._bind()
        for node in self.found.walk(self.node):
            if isinstance(node, ast.Call | ast.Attribute):
                self.value(node)

    def _bind(self) -> None:
        """Names of the function, in the order in which they are given something."""
        for node in self.found.walk(self.node):
            if isinstance(node, Function | ast.Lambda):
                for one in arguments(node):
                    told = self.types.annotated(self.module, one.annotation)
                    self._give(one.arg, told or self._inherited(node, one.arg))
        if self.owner and isinstance(self.node, Function):
            first = arguments(self.node)[:1]
            if first and "staticmethod" not in decorators(self.node):
                how = "class" if "classmethod" in decorators(self.node) else "instance"
                self.names[first[0].arg] = Value(how, self.order[0])
        for node in self.found.walk(self.node):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self._give(node.targets[0].id, self.value(node.value))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._give(node.target.id, self.types.annotated(self.module, node.annotation))
            elif isinstance(node, ast.For | ast.comprehension) and isinstance(
                node.target, ast.Name
            ):
                row = self.value(node.iter)
                if row and row.how == "items":
                    self._give(node.target.id, row._replace(how="instance"))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                told = self.value(node.args[1])
                if isinstance(node.args[0], ast.Name) and told and self.found.is_stock(told.thing):
                    self._give(node.args[0].id, Value("instance", told.thing))

    def _inherited(self, node: Function | ast.Lambda, name: str) -> Value | None:
        """What an argument is in the stock method that this one overrides, or as it is called."""
        if isinstance(node, Function) and node is self.node:
            for cls in self.order if self.owner else ():
                theirs = self.types.members(cls).get(node.name)
                if self.found.is_stock(cls) and isinstance(theirs, Function):
                    for one in arguments(theirs):
                        if one.arg == name and one.annotation:
                            return self.types.annotated(cls.module, one.annotation)
        return self.found.handed.get((self.module, node.lineno, name))

    def _give(self, name: str, value: Value | None) -> None:
        self.names[name] = self.names.get(name) or value
        self._known.clear()

    def value(self, node: ast.AST) -> Value | None:
        """What an expression is; what is read on the way is noted."""
        if node not in self._known:
            self._known[node] = None
            self._known[node] = self._value(node)
        return self._known[node]

    def _value(self, node: ast.AST) -> Value | None:
        if isinstance(node, ast.Name):
            if node.id in self.names:
                return self.names[node.id]
            return self.types.of(self.found.sources.find(self.module, node.id))
        if isinstance(node, ast.Attribute):
            return self._attribute(self.value(node.value), node.attr)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.BoolOp):
            return next((v for part in node.values if (v := self.value(part))), None)
        return None

    def _attribute(self, base: Value | None, name: str, *, optional: bool = False) -> Value | None:
        if base is None or base.how in ("function", "items"):
            return None
        if base.how == "module":
            if not self.found.is_stock(base.thing):
                return self.types.of(self.found.sources.find(base.thing.module, name))
            return self.types.of(self.found.top(self.by, base.thing.module, name))
        order = self.types.order(base.thing)
        if base.how == "super":
            order = self.order[self.order.index(base.thing) + 1 :]
        member = self.types.member(order, name)
        if member is not None and member.owner.module in self.found.ours:
            theirs = self.types.member([o for o in order if self.found.is_stock(o)], name)
            own = self.types.of_member(member)
            return own or (self.types.of_member(theirs) if theirs else None)
        if not any(self.found.is_stock(one) for one in order):
            return None
        if member is None and base.how != "super" and self._ours_has(base, name):
            return None
        label = self._label(base, order)
        mixed = base.how == "instance" and self.owner is not None and base.thing == self.order[0]
        if member is None:
            if not optional and not any(one.kind == "unknown" for one in order):
                self.found.note(
                    Use(f"{label}.{name}", self.by, f"{label} has no {name}"), shared=mixed
                )
            return None
        if self.found.is_stock(member.owner):
            shape = str(signature(member.function, bound=True)) if member.function else ""
            empty = base.how == "super" and member.stub
            problem = (
                f"{label} has no {name}: {member.owner.name} only declares it" if empty else ""
            )
            self.found.note(
                Use(f"{label}.{name}", self.by, problem, shape, member.home), shared=mixed
            )
        return self.types.of_member(member)

    def _label(self, base: Value, order: list[Thing]) -> str:
        if base.how == "super" or (self.order and base.thing == self.order[0]):
            return self.label
        first = next(one for one in order if self.found.is_stock(one))
        return (base.thing if base.thing == first else first).asked or first.name

    def _ours_has(self, base: Value, name: str) -> bool:
        """Whether a class of ours that derives from this one has the name."""
        for module in self.found.ours:
            read = self.found.sources.module(module)
            for node in read.tree.body if read else ():
                if isinstance(node, ast.ClassDef):
                    order = self.types.order(Thing("class", module, node.name, node))
                    if base.thing in order[1:] and self.types.member(order, name):
                        return True
        return False

    def _call(self, node: ast.Call) -> Value | None:
        called = ast.unparse(node.func)
        if called == "super":
            start = self.value(node.args[0]) if node.args else None
            thing = start.thing if start else self.owner
            return Value("super", thing) if thing in self.order and thing else None
        if called in ("getattr", "hasattr") and isinstance(node.args[1], ast.Constant):
            return self._attribute(self.value(node.args[0]), str(node.args[1].value), optional=True)
        if called == "replace" and node.args:
            base = self.value(node.args[0])
            for word in node.keywords:
                if word.arg:
                    self._attribute(base, word.arg)
            return base
        if called in ("sorted", "list", "reversed", "tuple") and node.args:
            return self.value(node.args[0])
        target = self.value(node.func)
        if target is None:
            return None
        if target.how == "class":
            self._made(target, node)
            return Value("instance", target.thing)
        if target.how != "function" or not isinstance(target.node, Function):
            return None
        module = target.thing.module
        if module in self.found.ours:
            self._hand(target.node, module, node, target.thing.kind == "class")
        if self.found.is_stock(target.thing):
            method = target.thing.kind == "class"
            self._fit(
                self._called(node, target), signature(target.node, bound=method), node, f"{module}"
            )
        return self.types.annotated(module, target.node.returns)

    def _hand(self, function: Function, module: str, node: ast.Call, method: bool) -> None:
        """Remember what is handed to one of our own functions."""
        names = [one.arg for one in arguments(function)]
        if method and "staticmethod" not in decorators(function):
            names = names[1:]
        given = list(zip(names, node.args, strict=False))
        given += [(word.arg, word.value) for word in node.keywords if word.arg]
        for name, argument in given:
            value = self.value(argument)
            if value is not None:
                self.found.handed.setdefault((module, function.lineno, name), value)

    def _called(self, node: ast.Call, target: Value) -> str:
        """The name under which `_attribute` or `top` has noted what is called."""
        if isinstance(node.func, ast.Attribute):
            base = self.value(node.func.value)
            if base is not None and base.how == "module":
                return f"{base.thing.module}.{node.func.attr}"
            if base is not None:
                return f"{self._label(base, self.types.order(base.thing))}.{node.func.attr}"
        assert target.node is not None
        named = self.found.sources.find(self.module, ast.unparse(node.func))
        read = self.found.sources.module(self.module)
        origin = read.names.get(ast.unparse(node.func)) if read else None
        if isinstance(origin, tuple):
            return ".".join(origin)
        return named.asked if named else f"{target.thing.module}.{target.thing.name}"

    def _made(self, target: Value, node: ast.Call) -> None:
        """An object of a stock class, or of one of ours that is made as the stock one is."""
        order = self.types.order(target.thing)
        own = self.types.member(order, "__init__")
        if own and own.owner.module in self.found.ours and own.function:
            self._hand(own.function, own.owner.module, node, True)
        if not any(self.found.is_stock(one) for one in order):
            return
        made = own
        label = self._label(target, order)
        if made is not None:
            if self.found.is_stock(made.owner) and made.function:
                self._fit(f"{label}()", signature(made.function, bound=True), node, made.home)
            return
        fields: dict[str, tuple[bool, bool]] = {}
        for cls in reversed(order):
            fields |= _fields(cls)
        if fields:
            self._fit(f"{label}()", of_fields(fields), node, f"{order[0].module}.{order[0].name}")

    def _fit(self, name: str, taken: Signature, node: ast.Call, home: str) -> None:
        self.found.note(Use(name, self.by, call_misfit(taken, node), str(taken), home))


def _fields(cls: Thing) -> dict[str, tuple[bool, bool]]:
    """Fields of a dataclass: whether each has a default, and goes by keyword only."""
    node = cls.node
    if not isinstance(node, ast.ClassDef) or "dataclass" not in decorators(node):
        return {}
    marks = " ".join(ast.unparse(mark) for mark in node.decorator_list)
    found = {}
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            value = ast.unparse(one.value) if one.value else ""
            if "ClassVar" in ast.unparse(one.annotation) or "init=False" in value:
                continue
            made = value.startswith(("field(", "dataclasses.field(", "Field("))
            default = bool(value) and (not made or "default" in value)
            found[one.target.id] = (default, "kw_only=True" in marks + value)
    return found
