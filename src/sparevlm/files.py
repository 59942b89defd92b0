"""Writing results: whole, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each under another name first; the folder is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        partial = out / f"{name}.partial"
        partial.write_bytes(data)
        partial.replace(out / name)
