"""Writing results: whole, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file under another name first; text is UTF-8, and a link stays a link.

    Raises
    ------
    OSError
        If writing fails: it names `path`, which is as it was, and nothing is left beside it.
    """
    final = Path(os.path.realpath(path))
    partial = final.with_name(f".{final.name}.{secrets.token_hex(8)}.partial")  # nobody's file
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        partial.replace(final)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        partial.unlink(missing_ok=True)


def write_files(out: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each whole; the folder is made if need be."""
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_whole(out / name, data)
