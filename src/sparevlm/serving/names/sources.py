"""Packages as `ast` reads them: modules, what their names stand for, the order of classes."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

# "vllm/config/model.py" -> its text; None: there is no such file.
Reader = Callable[[str], str | None]
# Their classes bring no names that anybody looks for.
_PLAIN = {"abc", "builtins", "enum", "typing", "typing_extensions"}


def folder(root: Path) -> Reader:
    """Reads packages that lie in a folder."""

    def read(path: str) -> str | None:
        file = root / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    return read


def installed(package: str) -> Reader | None:
    """Reads an installed package, without importing it; None: it is not there, or has no files."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    places = spec.submodule_search_locations if spec else None
    return folder(Path(next(iter(places))).parent) if places else None


@dataclass(frozen=True)
class Thing:
    """What a name stands for.

    Attributes
    ----------
    kind : str
        "module", "class", "function", "value", or "unknown" where the source is not at hand.
    module, name : str
        Where it is defined; of a module `name` is "".
    node : ast.AST or None
        Its definition.
    asked : str
        The dotted name under which our code asks for it; its plain name where ours does not.
    """

    kind: str
    module: str
    name: str = ""
    node: ast.AST | None = field(default=None, compare=False)
    asked: str = field(default="", compare=False)


@dataclass
class Module:
    """Names at the top of a module."""

    name: str
    tree: ast.Module
    names: dict[str, ast.AST | tuple[str, str]]  # a definition, or (module, name) it comes from
    stars: list[str]
    open: bool  # whether it finds names when asked


class Sources:
    """Several packages, each with its reader.

    Parameters
    ----------
    readers : mapping of str to Reader
        By the name of the package; others count as unknown.
    whole : str
        Prefix of the modules whose imports inside functions count as names of the module too.
    """

    def __init__(self, readers: Mapping[str, Reader | None], whole: str = "") -> None:
        self._readers = dict(readers)
        self._whole = whole
        self._modules: dict[str, Module | None] = {}

    def readable(self, module: str) -> bool:
        """Whether the package of a module is at hand."""
        return self._readers.get(module.partition(".")[0]) is not None

    def module(self, name: str) -> Module | None:
        """A module, or None where there is no such file."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def _read(self, name: str) -> Module | None:
        reader = self._readers.get(name.partition(".")[0])
        if reader is None:
            return None
        path = name.replace(".", "/")
        for file, package in (
            (f"{path}/__init__.py", name),
            (f"{path}.py", name.rpartition(".")[0]),
        ):
            text = reader(file)
            if text is not None:
                return _scan(name, package, ast.parse(text), self._is_whole(name))
        return None

    def find(self, module: str, name: str) -> Thing | None:
        """What a name in a module stands for, or None where it is gone."""
        found = self._find(module, name, frozenset())
        there = self.module(module)
        origin = there.names.get(name) if there and self._is_whole(module) else None
        asked = ".".join(origin).rstrip(".") if isinstance(origin, tuple) else name
        return found and replace(found, asked=asked)

    def _is_whole(self, module: str) -> bool:
        return bool(self._whole) and module.startswith(self._whole)

    def _find(self, module: str, name: str, seen: frozenset[tuple[str, str]]) -> Thing | None:
        if (module, name) in seen:
            return None
        seen |= {(module, name)}
        if not self.readable(module):
            return Thing("unknown", module, name)
        there = self.module(module)
        if there is None:
            return None
        known = there.names.get(name)
        if isinstance(known, tuple):
            base, wanted = known
            if not wanted:
                return self._as_module(base)
            return self._find(base, wanted, seen)
        if known is not None:
            return Thing(_kind(known), module, name, known)
        if self.module(f"{module}.{name}") is not None:
            return Thing("module", f"{module}.{name}")
        for star in there.stars:
            found = self._find(star, name, seen)
            if found is not None:
                return found
        return Thing("unknown", module, name) if there.open else None

    def _as_module(self, name: str) -> Thing | None:
        if not self.readable(name):
            return Thing("unknown", name)
        return Thing("module", name) if self.module(name) is not None else None

    def named(self, module: str, expression: ast.AST) -> Thing | None:
        """What `name` or `module.name` in the code of a module stands for; None: it is gone."""
        if isinstance(expression, ast.Subscript):
            return self.named(module, expression.value)
        if isinstance(expression, ast.Name):
            found = self.find(module, expression.id)
            if found is None and hasattr(builtins, expression.id):
                return Thing("class", "builtins", expression.id)
            return found
        if isinstance(expression, ast.Attribute):
            base = self.named(module, expression.value)
            if base is None:
                return None
            if base.kind == "module":
                found = self.find(base.module, expression.attr)
                if found is not None and self._is_whole(module):
                    found = replace(found, asked=f"{base.module}.{expression.attr}")
                return found
        return Thing("unknown", module)

    def bases(self, cls: Thing) -> list[tuple[str, Thing | None]]:
        """The base classes as they are written, and what they are; None: gone."""
        if not isinstance(cls.node, ast.ClassDef):
            return []
        return [(ast.unparse(b), self.named(cls.module, b)) for b in cls.node.bases]

    def order(self, cls: Thing) -> list[Thing]:
        """The class and what it inherits, as Python orders them; unknown ones among them."""
        if cls.module.partition(".")[0] in _PLAIN:
            return []
        parents = [base for _, base in self.bases(cls) if base is not None]
        rows = [order for base in parents if (order := self.order(base))]
        rows.append([base for base in parents if base.module.partition(".")[0] not in _PLAIN])
        return [cls, *_merged(rows)]


def _merged(rows: list[list[Thing]]) -> list[Thing]:
    """C3; what has no consistent order is taken as it comes."""
    rows = [list(row) for row in rows if row]
    merged = []
    while rows:
        tails = [one for row in rows for one in row[1:]]
        head = next((row[0] for row in rows if row[0] not in tails), rows[0][0])
        merged.append(head)
        rows = [[one for one in row if one != head] for row in rows]
        rows = [row for row in rows if row]
    return merged


def _kind(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return "class"
    return "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "value"


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body and of what branches in it, without those of functions and classes."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for part in ("body", "orelse", "handlers", "finalbody"):
                for inner in getattr(node, part, []):
                    yield from statements(
                        inner.body if isinstance(inner, ast.ExceptHandler) else [inner]
                    )


def is_overload(node: ast.AST) -> bool:
    """Whether it is a signature for type checkers alone."""
    marks = getattr(node, "decorator_list", ())
    return any(ast.unparse(mark).rpartition(".")[2] == "overload" for mark in marks)


def _scan(name: str, package: str, tree: ast.Module, whole: bool) -> Module:
    found = Module(name, tree, {}, [], False)
    nodes: list[ast.AST] = list(statements(tree.body))
    if whole:
        nodes += [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom | ast.Import)]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            base = _absolute(node, package)
            for alias in node.names:
                if alias.name == "*":
                    found.stars.append(base)
                else:
                    found.names.setdefault(alias.asname or alias.name, (base, alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                bound = alias.name if alias.asname else alias.name.partition(".")[0]
                found.names.setdefault(alias.asname or bound, (bound, ""))
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not is_overload(node):
                found.names.setdefault(node.name, node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for part in ast.walk(target):
                    if isinstance(part, ast.Name):
                        found.names.setdefault(part.id, node)
    found.open = "__getattr__" in found.names
    return found


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])
