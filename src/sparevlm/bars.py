"""Progress bars of transformers and of the hub: for a person who waits, and for no one else."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_hiding = 0  # how many are hiding bars now, in all threads


def someone_waits() -> bool:
    """Whether a person sees what is written to stderr: a terminal, or a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


@contextmanager
def loading_bars(long: bool) -> Iterator[None]:
    """Show bars while something is loaded only if it takes long and a person waits for it.

    Bars that the user has switched off stay off, and those that the user has asked for by
    `HF_HUB_DISABLE_PROGRESS_BARS=0` stay on.
    """
    from transformers.utils import logging

    global _hiding
    asked_for = os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS", "").upper() in ("0", "OFF", "FALSE")
    if (long and someone_waits()) or asked_for:
        yield
        return
    with _lock:
        mine = bool(_hiding) or logging.is_progress_bar_enabled()
        if mine:
            _hiding += 1
            logging.disable_progress_bar()
    try:
        yield
    finally:
        with _lock:
            if mine:
                _hiding -= 1
            if mine and not _hiding:
                logging.enable_progress_bar()
