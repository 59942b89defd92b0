"""Writing results: whole, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file under another name first; text is UTF-8."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    partial.replace(path)


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each whole; the folder is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_whole(out / name, data)
