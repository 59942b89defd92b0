"""The command ``sparevlm``.

Results go to stdout, everything else to stderr. Bad input is one line on stderr and exit code 2.
Heavy imports wait inside the commands, so that --help and --version are quick.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn

import shtab

from sparevlm.commands.ask import add_ask
from sparevlm.commands.bench import add_bench
from sparevlm.commands.compare import add_compare
from sparevlm.commands.demo import add_demo
from sparevlm.commands.listings import add_listings
from sparevlm.commands.speed import add_speed
from sparevlm.commands.terminal import one_line, warn
from sparevlm.warning import SparevlmWarning

LONGEST_ERROR = 600  # characters; transformers can list every model it knows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments without the program's name; None: those of the process.

    Returns
    -------
    int
        Exit code: 0 done, 1 a failure of ours (or a closed pipe), 2 bad input, 130 interrupted.
    """
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone: keep Python from flushing into the pipe again
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: list[str]) -> int:
    try:
        args = _parse(argv)
        with _own_warnings():
            result = args.run(args)
        print(result)
        sys.stdout.flush()
    except SystemExit as stop:  # --help and --version have printed already
        sys.stdout.flush()
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        raise
    except Exception as error:
        return _report_error(error)
    return 0


def _report_error(error: Exception) -> int:
    if os.environ.get("SPAREVLM_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    expected = isinstance(
        error, ValueError | OSError | TypeError | RuntimeError | MemoryError | ImportError
    )
    words = one_line(str(error)) or type(error).__name__
    if len(words) > LONGEST_ERROR:
        words = words[:LONGEST_ERROR] + " ..."
    if not expected:
        words = f"{type(error).__name__}: {words} (SPAREVLM_DEBUG=1 shows where)"
    print(f"sparevlm: error: {words}", file=sys.stderr)
    return 2 if expected else 1


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Show warnings of ours, one line each, and no others (Pillow's, transformers')."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=SparevlmWarning)
        warnings.showwarning = lambda message, *_, **__: warn(str(message))
        yield


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, no usage before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="sparevlm",
        description="Training-free visual token pruning for vision-language models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sparevlm {_version()}")
    shtab.add_argument_to(
        parser, ["--print-completion"], help="print what makes a shell complete this command"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    ask = add_ask(commands)
    add_bench(commands)
    add_compare(commands)
    add_speed(commands)
    add_demo(commands)
    add_listings(commands)
    if not argv:
        parser.print_help()
        parser.exit()
    if argv[:1] == ["ask"]:  # pictures and question may stand on both sides of the options
        return ask.parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sparevlm")
    except PackageNotFoundError:  # run from a source tree
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
