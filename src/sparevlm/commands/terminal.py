"""What commands say on a terminal, and how they keep others quiet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout


def one_line(text: str) -> str:
    """Text with every run of white space made one blank."""
    return " ".join(text.split())


def warn(text: str) -> None:
    """Print one line of warning to stderr."""
    print(f"sparevlm: warning: {one_line(text)}", file=sys.stderr)


def progress(text: str) -> None:
    """Say what is going on, on stderr."""
    if sys.stderr.isatty():  # for people, not for logs
        print(f"sparevlm: {text} ...", file=sys.stderr)


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines with aligned columns, two spaces between them."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells: list[Callable[[int], str]] = [
            cell.rjust if i in right else cell.ljust for i, cell in enumerate(row)
        ]
        lines.append("  ".join(c(w) for c, w in zip(cells, widths, strict=True)).rstrip())
    return lines


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers off stdout, and its chatter off stderr."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    loggers = [(log, log.get_verbosity()) for log in (logging, hub_logging)]
    for log, _ in loggers:
        log.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for log, verbosity in loggers:
            log.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
