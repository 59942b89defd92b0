"""Every name of vLLM that our code imports, derives from, overrides, calls or reads."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from sparevlm.serving.names.body import Body
from sparevlm.serving.names.found import Found, Use
from sparevlm.serving.names.signatures import override_misfit, signature
from sparevlm.serving.names.sources import Sources, Thing
from sparevlm.serving.names.types import Function


def uses(
    sources: Sources, ours: list[str], stock: str, served: Mapping[str, str] | None = None
) -> list[Use]:
    """What modules of ours use of a package.

    Parameters
    ----------
    sources : Sources
        Where both are read.
    ours : list of str
        Our modules.
    stock : str
        The package, such as "vllm".
    served : mapping of str to str, optional
        Architecture -> our class, dotted, that takes the place of the stock one.

    Returns
    -------
    list of Use
        Sorted by name; of a name that is used in several ways, what is wrong is told first.
    """
    found = Found(sources, ours, stock)
    search = _Search(found)
    known = -1
    while len(found.handed) > known:  # each time what arguments are is known one call further
        known = len(found.handed)
        found.uses.clear()
        for module in ours:
            search.imports(module)
            search.module(module)
    found.forgive()
    for architecture, name in (served or {}).items():
        search.served(architecture, name)
    return [found.uses[name] for name in sorted(found.uses)]


class _Search:
    def __init__(self, found: Found) -> None:
        self.found, self.sources, self.types = found, found.sources, found.types
        self.ours, self.stock = found.ours, found.stock

    def imports(self, module: str) -> None:
        """Names that a module imports, anywhere in it."""
        read = self.sources.module(module)
        for name, origin in (read.names if read else {}).items():
            if isinstance(origin, tuple) and origin[0].partition(".")[0] == self.stock:
                self.found.top(module, origin[0], origin[1] or name)

    def module(self, name: str) -> None:
        """What the functions and classes of one of our modules use."""
        read = self.sources.module(name)
        assert read is not None, name
        for node in read.tree.body:
            if isinstance(node, ast.ClassDef):
                self.cls(Thing("class", name, node.name, node))
            else:
                Body(self.found, name, node, None, []).read()

    def cls(self, cls: Thing) -> None:
        """One of our classes, with all that its mixins do in it."""
        order = self.types.order(cls)
        mine = [one for one in order if one.module in self.ours]
        stock = [one for one in order if one not in mine]
        label = self.label(cls)
        for text, base in self.sources.bases(cls):
            if base is None:
                self.found.note(
                    Use(f"{cls.name}({text})", cls.module, f"{cls.name}'s base {text} is gone")
                )
        if label:
            self.overrides(cls, mine, stock, label)
        node = cls.node
        assert isinstance(node, ast.ClassDef)
        for mark in node.decorator_list:
            Body(self.found, cls.module, mark, None, []).read()
        for owner in mine if label else [cls]:
            for method in self.types.members(owner).values():
                if isinstance(method, Function):
                    Body(self.found, owner.module, method, owner, order, label).read()

    def label(self, cls: Thing) -> str:
        """The first stock class that one of ours stands on, as we name it; "": there is none."""
        for one in self.types.order(cls):
            for _, base in self.sources.bases(one) if one.module in self.ours else ():
                if base is not None and self.found.is_stock(base) and base.kind == "class":
                    first = next(o for o in self.types.order(cls) if self.found.is_stock(o))
                    return base.asked if base == first else first.asked or first.name
        return ""

    def overrides(self, cls: Thing, mine: list[Thing], stock: list[Thing], label: str) -> None:
        """Each name that ours has in place of a stock one."""
        for name in {name for one in mine for name in self.types.members(one)}:
            theirs, own = self.types.member(stock, name), self.types.member(mine, name)
            if theirs is None or own is None or not self.found.is_stock(theirs.owner):
                continue
            shape, problem = "", ""
            if theirs.function is not None:
                taken = signature(theirs.function, bound=True)
                shape = str(taken)
                if own.function is not None:
                    problem = override_misfit(taken, signature(own.function, bound=True))
            self.found.note(
                Use(f"{label}.{name}", f"{cls.name}.{name}", problem, shape, theirs.home)
            )

    def served(self, architecture: str, name: str) -> None:
        """Whether vLLM serves an architecture with the class that ours derives from."""
        module, _, plain = name.rpartition(".")
        cls = self.sources.find(module, plain)
        if cls is None:
            return
        registry = f"{self.stock}.model_executor.models"
        label = f"{registry}.registry[{architecture!r}]"
        read = self.sources.module(f"{registry}.registry")
        for node in ast.walk(read.tree) if read else ():
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == architecture:
                        told = ast.literal_eval(value)
                        there = self.sources.find(f"{registry}.{told[0]}", told[1])
                        fits = there in self.types.order(cls)
                        problem = (
                            "" if fits else f"{architecture} is now served by {'.'.join(told)}"
                        )
                        self.found.note(Use(label, plain, problem, home=".".join(told)))
                        return
        self.found.note(Use(label, plain, f"{architecture} is not in its registry"))
