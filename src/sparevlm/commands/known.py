"""Facts of the methods that ship, written down so that a listing need not import torch.

`make docs` writes `known_methods.json`; it counts only while the sources are those that it was
written from, no other package offers methods, and nobody has imported the methods anyway.
"""

from __future__ import annotations

import json
import sys
import zlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from sparevlm.plugins import METHODS

PATH = Path(__file__).with_name("known_methods.json")


def known_methods() -> list[dict[str, Any]] | None:
    """What `sparevlm methods --json` prints, if that is known; else None."""
    if "sparevlm.methods" in sys.modules or entry_points(group=METHODS):
        return None
    try:
        known = json.loads(PATH.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    methods: list[dict[str, Any]] = known["methods"]
    return methods if known["sources"] == sources() else None


def sources() -> int:
    """A checksum of what the facts are read off."""
    package = PATH.parents[1]
    total = 0
    for path in [*sorted((package / "methods").glob("*.py")), package / "tokens.py"]:
        total = zlib.crc32(path.read_bytes().replace(b"\r\n", b"\n"), total)
    return total


def written(methods: list[dict[str, Any]]) -> str:
    """What belongs into the file."""
    return json.dumps({"sources": sources(), "methods": methods}, indent=1) + "\n"
