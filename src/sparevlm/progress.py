"""Progress of a long run: a bar for a person, a plain line now and then for a log."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from tqdm import tqdm

_SECONDS = 30.0  # between two lines
_LINE = "{desc}{n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left"


def progress_bar(total: int, unit: str, desc: str = "") -> Any:
    """A `tqdm` on stderr; where that is no terminal it prints whole lines, half a minute apart."""
    if sys.stderr.isatty():
        return tqdm(total=total, unit=unit, desc=desc)
    return tqdm(
        total=total, unit=unit, desc=f"{desc or unit}: ", file=_Lines(sys.stderr), bar_format=_LINE,
        mininterval=_SECONDS, maxinterval=_SECONDS,
    )  # fmt: skip


class _Lines:
    """A stream that gets what a bar draws over and over as lines, one below the other."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last = stream, ""

    def write(self, text: str) -> None:
        """Write a line, unless it is empty or has just been said."""
        words = text.strip()
        if words and words != self._last:
            self._stream.write(f"sparevlm: {words}\n")
            self._last = words

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()
