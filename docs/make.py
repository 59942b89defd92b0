"""Write docs/methods.md from the methods' docstrings: python docs/make.py."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path

from sparevlm.methods import PruningMethod, list_methods, method_class
from sparevlm.methods.base import works_with

TARGET = Path(__file__).with_name("methods.md")
HEAD = """# Methods

Written by `make docs` from the docstrings; do not edit. Every method is made the same way,
`get_method(name, keep, **settings)` or its class, and used the same way, `with method(model): ...`.
`keep` is a number of tokens, a fraction, or (where it says so) `Residual(error)`; merged and
summary tokens count. With `keep=1.0` every method but `no-image` leaves the model's output
bit-identical. Settings that all have are `per` ("image", "prompt") and `positions` ("auto",
"compact", "original"). In the formulas x_i is the feature of token i as the language model gets it,
after the projector; an encoder state is the row that goes into the projector. What a selection
costs: `make bench-methods`.

"""


def link(paper: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def body(doc: str) -> str:
    """A numpy docstring as Markdown: parameters become a list."""
    head, *sections = re.split(r"\n(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(doc))
    lines = [head.strip()]
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        lines.append("")
        if title != "Parameters":
            lines.append(text.strip())
            continue
        for name, words in re.findall(r"^(\S.*?) : .*\n((?:    .*\n?)+)", text + "\n", re.M):
            names = ", ".join(f"`{part}`" for part in name.split(", "))
            lines.append(f"- {names}: {' '.join(words.split())}")
    return "\n".join(lines)


def settings(cls: type[PruningMethod]) -> str:
    known = [f for f in fields(cls) if f.name not in ("keep", "per", "positions")]
    values = {f.name: f.default for f in known if f.default is not MISSING}
    return ", ".join(
        f"`{name}={value:.4g}`" if isinstance(value, float) else f"`{name}={value!r}`"
        for name, value in values.items()
    )


def section(cls: type[PruningMethod]) -> str:
    facts = {
        "class": f"`sparevlm.{cls.__name__}`",
        "from": link(cls.paper),
        "needs": ", ".join(f"`{need}`" for need in sorted(cls.needs)) or "features alone",
        "merges": "yes" if cls.merges else "no",
        "works with": "; ".join(works_with(cls)) or "every supported model",
        "settings": ", ".join(["`keep`", settings(cls)]).rstrip(", ")
        + (" (`Residual` too)" if cls.bounds_error and cls.name != "no-image" else ""),
    }
    table = "".join(f"| {name} | {words} |\n" for name, words in facts.items())
    return f"## {cls.name}\n\n{body(cls.__doc__ or '')}\n\n|  |  |\n| --- | --- |\n{table}"


def text() -> str:
    return HEAD + "\n".join(section(method_class(name)) for name in list_methods())


if __name__ == "__main__":
    TARGET.write_text(text())
