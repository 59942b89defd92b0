"""``sparevlm methods`` and ``sparevlm models``: what there is."""

from __future__ import annotations

import argparse
import json
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from sparevlm.commands.known import known_methods
from sparevlm.commands.terminal import one_line, table

if TYPE_CHECKING:
    from sparevlm.methods import PruningMethod


def add_listings(commands: Any) -> None:
    """Add both commands."""
    for name, run, words in (
        ("methods", _methods, "list the pruning methods and their settings"),
        ("models", _models, "list the model families that are supported"),
    ):
        listing = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        listing.add_argument("--json", action="store_true", help="print a JSON array")
        listing.set_defaults(run=run)


def _methods(args: argparse.Namespace) -> str:
    methods = known_methods() or described_methods()
    if args.json:
        return json.dumps(methods)
    blocks = []
    for facts in methods:
        settings = ", ".join(f"{name}={value!r}" for name, value in facts["settings"].items())
        rows = [
            ("  class", f"sparevlm.{facts['class']}"),
            ("  paper", facts["paper"] or "-"),
            ("  needs", ", ".join(facts["needs"]) or "nothing but the features"),
            ("  works", "inside the language model" if facts["inside"] else "before it"),
            ("  merges tokens", _yes(facts["merges"])),
            ("  nested", "yes, one order serves every budget" if facts["nested"] else "no"),
            ("  works with", "; ".join(facts["works_with"]) or "every supported model"),
            ("  settings", f"keep, {settings}"),
        ]
        blocks.append("\n".join([f"{facts['name']}: {facts['summary']}", *table(rows)]))
    return "\n\n".join(blocks)


def described_methods() -> list[dict[str, Any]]:
    """Facts of all methods, read off their classes."""
    from sparevlm.methods import list_methods, method_class

    return [_describe(method_class(name)) for name in list_methods(inside=None)]


def _describe(cls: type[PruningMethod]) -> dict[str, Any]:
    """Facts of a method; every method has `keep` besides, which mostly has no default."""
    from sparevlm.methods import works_with

    return {
        "name": cls.name,
        "class": cls.__name__,
        "summary": one_line((cls.__doc__ or "").split("\n\n")[0]),
        "paper": cls.paper,
        "needs": sorted(cls.needs),
        "merges": cls.merges,
        "nested": cls.nested,
        "inside": cls.inside,
        "works_with": works_with(cls),
        "settings": {
            field.name: field.default
            for field in fields(cls)
            if field.default is not MISSING and field.name != "keep"
        },
    }


def _models(args: argparse.Namespace) -> str:
    from sparevlm.families import family_facts

    families = family_facts()
    if args.json:
        return json.dumps(families)
    rows = [
        (
            "family",
            "model_type",
            "images",
            "video",
            "vLLM",
            "text tower",
            "positions",
            "status",
            "tokens a picture",
            "class, checkpoints",
        )
    ]
    for facts in families:
        rows.append((
            facts["name"], facts["model_type"], _yes(facts["images"]), _yes(facts["video"]),
            _yes(facts["serving"]),
            facts["text_tower"] or "-", facts["positions"], facts["status"], facts["tokens"],
            ", ".join([facts["classes"][0], *facts["hub"]]),
        ))  # fmt: skip
    return "\n".join(table(rows))


def _yes(value: bool) -> str:
    return "yes" if value else "no"
