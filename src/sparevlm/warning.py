"""Warnings that name the user's own line, however deep in the package they arise."""

from __future__ import annotations

import itertools
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

_THROUGH = tuple(
    str(Path(spec.origin).parent)
    for name in ("sparevlm", "torch", "transformers")
    if (spec := find_spec(name)) is not None and spec.origin
)


class SparevlmWarning(UserWarning):
    """What this package warns of."""


def warn(message: str) -> None:
    """Warn as if the nearest caller outside this package, torch and transformers had."""
    for level in itertools.count(2):
        try:
            frame = sys._getframe(level - 1)
        except ValueError:  # all of it is ours, a command for example
            warnings.warn(message, SparevlmWarning, stacklevel=2)
            return
        if not frame.f_code.co_filename.startswith(_THROUGH):
            warnings.warn(message, SparevlmWarning, stacklevel=level)
            return
