"""Warnings that name the user's own line, however deep in the package they arise."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path


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
        if not frame.f_code.co_filename.startswith(_folders()):
            warnings.warn(message, SparevlmWarning, stacklevel=level)
            return


@functools.cache
def _folders() -> tuple[str, ...]:
    """Where the packages lie that calls come through, each with a separator behind it."""
    specs = (find_spec(name) for name in ("sparevlm", "torch", "transformers"))
    return tuple(str(Path(spec.origin).parent) + os.sep for spec in specs if spec and spec.origin)
