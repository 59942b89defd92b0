"""``sparevlm methods`` and ``sparevlm models``: what there is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import MISSING, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from sparevlm.commands.known import known_methods
from sparevlm.commands.sizes import SIZES, WORDS, gigabytes, read_memory
from sparevlm.commands.terminal import one_line, table

if TYPE_CHECKING:
    from sparevlm.methods import PruningMethod

WIDTH = 100  # columns of a terminal that a table may take


def add_listings(commands: Any) -> None:
    """Add both commands."""
    for name, run, words, one in (
        ("methods", _methods, "list the pruning methods and their settings", "METHOD"),
        ("models", _models, "list the model families that are supported", "FAMILY"),
    ):
        listing = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        listing.add_argument(
            "name", nargs="?", metavar=one, help="all that is known of this one (by a part of it)"
        )
        if name == "models":
            listing.add_argument(
                "--memory",
                metavar="SIZE",
                help="list checkpoints that fit into so much memory (8GB), of the small ones",
            )
        listing.add_argument("--json", action="store_true", help="print a JSON array")
        listing.set_defaults(run=run)


def _methods(args: argparse.Namespace) -> str:
    methods = known_methods() or described_methods()
    if args.name is not None:
        methods = _named(methods, args.name, ("name", "class"))
    if args.json:
        return json.dumps(methods)
    blocks = []
    for facts in methods:
        settings = ", ".join(f"{name}={value!r}" for name, value in facts["settings"].items())
        needs = ", ".join(facts["needs"]).replace("_", " ")
        rows = [
            ("  class", f"sparevlm.{facts['class']}"),
            ("  paper", facts["paper"] or "-"),
            ("  needs", needs or "nothing but the features"),
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
    if args.name is not None:
        families = _named(families, args.name, ("name", "model_type", "classes", "hub"))
    if args.memory is not None:
        return _fitting(families, read_memory(args.memory), args.json)
    if args.json:
        return json.dumps(families)
    if args.name is not None:
        return "\n\n".join(_family(facts) for facts in families)
    rows = [("family", "model_type", "video", "vLLM", "positions", "tested on")]
    for facts in families:
        rows.append((
            facts["name"], facts["model_type"], _yes(facts["video"]), _yes(facts["serving"]),
            facts["positions"], facts["status"],
        ))  # fmt: skip
    more = (
        "sparevlm models FAMILY: its classes, checkpoints and tokens; --json: all of them",
        "sparevlm models --memory 8GB: small checkpoints that fit into so much memory",
    )
    return "\n".join([*table(rows), "", *more])


def _fitting(families: Sequence[dict[str, Any]], room: int, as_json: bool) -> str:
    """Checkpoints of these families that fit, the smallest first."""
    names = {name for facts in families for name in facts["hub"]}
    known = sorted((s.memory(2), s.memory(4), name) for name, s in SIZES.items() if name in names)
    fitting = [row for row in known if row[0] <= room]
    if as_json:
        return json.dumps([
            {
                "checkpoint": name, "parameters": SIZES[name].parameters, "bytes_float32": full,
                "bytes_bfloat16": half, "fits": ["float32", "bfloat16"][full > room :],
            }
            for half, full, name in fitting
        ])  # fmt: skip
    if not known:
        return "no size is known here for checkpoints of this family"
    if not fitting:
        half, _, name = known[0]
        return (
            f"none fits into {gigabytes(room)}: {name} is the smallest, with {gigabytes(half)} in "
            "bfloat16; pocket, which ships with sparevlm, fits anywhere"
        )
    rows = [("checkpoint", "parameters", "float32", "bfloat16", "fits with")]
    for half, full, name in fitting:
        count = f"{SIZES[name].parameters / 1e9:.2f} B"
        fits = "any --dtype" if full <= room else "--dtype bfloat16"
        rows.append((name, count, gigabytes(full), gigabytes(half), fits))
    more = (
        f"unpruned, for one photo of 640 x 480 and {WORDS} tokens of words and answer, with Python",
        "and torch; computed from configurations. Larger pictures and videos take more.",
        "sparevlm ask PICTURE QUESTION --model CHECKPOINT; without --dtype a CPU takes float32",
    )
    return "\n".join([*table(rows, right=(1, 2, 3)), "", *more])


def _family(facts: dict[str, Any]) -> str:
    rows = [
        ("  model_type", facts["model_type"]),
        ("  classes", ", ".join(facts["classes"])),
        ("  checkpoints", ", ".join(facts["hub"])),
        ("  pictures, video", f"{_yes(facts['images'])}, {_yes(facts['video'])}"),
        ("  tokens a picture", facts["tokens"]),
        ("  tokens a frame", facts["tokens_a_frame"] or "-"),
        ("  text tower", facts["text_tower"] or "- (relevance: llm)"),
        ("  positions", facts["positions"]),
        ("  vLLM", _yes(facts["serving"])),
        ("  tested on", facts["status"]),
    ]
    for name in facts["hub"]:
        if name in SIZES:
            full, half = (gigabytes(SIZES[name].memory(width)) for width in (4, 2))
            rows.append(("  memory", f"{name}: {full}, in bfloat16 {half}"))
    return "\n".join([facts["name"], *table(rows)])


def _named(
    everything: Sequence[dict[str, Any]], name: str, among: Sequence[str]
) -> list[dict[str, Any]]:
    """Those of a name, else those of which it is a part."""
    words: list[tuple[str, dict[str, Any]]] = []
    for facts in everything:
        for field in among:
            value = facts[field]
            values = [value] if isinstance(value, str) else value
            words += [(one.lower(), facts) for one in values]
    wanted = name.strip().lower()
    found = [facts for word, facts in words if word == wanted]
    found = found or [facts for word, facts in words if wanted and wanted in word]
    if not found:
        near = get_close_matches(wanted, [word for word, _ in words], n=1)
        meant = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"nothing is named {name!r}{meant}")
    return [facts for facts in everything if any(facts is other for other in found)]


def _yes(value: bool) -> str:
    return "yes" if value else "no"
