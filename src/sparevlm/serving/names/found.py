"""The uses that were found so far, and what our functions are handed."""

from __future__ import annotations

import ast
from dataclasses import dataclass, replace

from sparevlm.serving.names.signatures import signature
from sparevlm.serving.names.sources import Sources, Thing
from sparevlm.serving.names.types import Function, Types, Value


@dataclass(frozen=True)
class Use:
    """One name of vLLM's that we use.

    Attributes
    ----------
    name : str
        The name as we ask for it, dotted.
    by : str
        Where ours asks.
    problem : str
        What is wrong with it; "" if nothing is.
    shape : str
        Its signature, where it has one.
    home : str
        The class or module that defines it; "" where that cannot be told.
    """

    name: str
    by: str
    problem: str = ""
    shape: str = ""
    home: str = ""


class Found:
    """What is known of both packages.

    Parameters
    ----------
    sources : Sources
        Where they are read.
    ours : list of str
        Our modules.
    stock : str
        The package that they use.
    """

    def __init__(self, sources: Sources, ours: list[str], stock: str) -> None:
        self.sources, self.types = sources, Types(sources)
        self.ours, self.stock = set(ours), stock
        self.uses: dict[str, Use] = {}
        # What arguments of our functions are, by (module, function's line, name), as calls show.
        self.handed: dict[tuple[str, int, str], Value] = {}
        self._shared: dict[tuple[str, str], set[str]] = {}
        self._walks: dict[ast.AST, list[ast.AST]] = {}

    def walk(self, node: ast.AST) -> list[ast.AST]:
        """`ast.walk`, once."""
        if node not in self._walks:
            self._walks[node] = list(ast.walk(node))
        return self._walks[node]

    def note(self, use: Use, *, shared: bool = False) -> None:
        """Remember a use; `shared`: one of the classes that share our code must have it."""
        before = self.uses.get(use.name)
        if before is None or (use.problem and not before.problem):
            self.uses[use.name] = use
        if shared:
            key = (use.by, use.name.rpartition(".")[2])
            self._shared.setdefault(key, set()).add(use.name)

    def forgive(self) -> None:
        """Forget what some of the classes that share our code lack and others have."""
        for names in self._shared.values():
            if any(not self.uses[name].problem for name in names):
                for name in names:
                    if self.uses[name].problem:
                        del self.uses[name]

    def is_stock(self, thing: Thing) -> bool:
        """Whether it is the package's."""
        return thing.module.partition(".")[0] == self.stock

    def top(self, by: str, module: str, name: str) -> Thing | None:
        """A name at the top of a stock module."""
        thing = self.sources.find(module, name)
        full = f"{module}.{name}"
        if thing is None:
            there = self.sources.module(module)
            what = f"{module} has no {name}" if there else f"there is no module {module}"
            self.note(Use(full, by, what))
            return None
        shape = str(signature(thing.node)) if isinstance(thing.node, Function) else ""
        self.note(Use(full, by, shape=shape, home=thing.module))
        return replace(thing, asked=full)
