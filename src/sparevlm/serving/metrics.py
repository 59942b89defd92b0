"""Prometheus: visual tokens in and kept, and seconds of selection, per method.

Tokens are counted where the server's /metrics lives. Selection runs in workers, processes of their
own: each writes its sums to a small file now and then, and the server's collector reads them.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_FOLDER = "SPAREVLM_METRICS"
_EVERY = 0.5  # seconds between two writes
_counters: dict[str, Any] = {}
_sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
_written = 0.0


def begin() -> None:
    """Agree on where workers write; the first process does, and those that it starts inherit it."""
    if not os.environ.get(_FOLDER):
        folder = tempfile.mkdtemp(prefix="sparevlm-")
        os.environ[_FOLDER] = folder
        atexit.register(_forget, folder, os.getpid())


def _forget(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def count_tokens(method: str, total: int, kept: int) -> None:
    """Count the tokens of the pictures of one request, before and after."""
    if not _counters:
        _register()
    _counters["in"].labels(method).inc(total)
    _counters["kept"].labels(method).inc(kept)


def count_selection(method: str, seconds: float) -> None:
    """Count one selection in a worker."""
    global _written
    total = _sums[method]
    total[0] += seconds
    total[1] += 1
    now = time.monotonic()
    if now - _written >= _EVERY or total[1] == 1:
        _written = now
        _write()


def _write() -> None:
    folder = Path(os.environ.get(_FOLDER, ""))
    if not folder.is_absolute() or not folder.is_dir():
        return
    target = folder / f"{os.getpid()}.json"
    new = target.with_suffix(".new")
    new.write_text(json.dumps(_sums))
    new.replace(target)


def sums() -> dict[str, tuple[float, int]]:
    """Seconds and number of selections of all workers, per method."""
    found: dict[str, tuple[float, int]] = {}
    for path in sorted(Path(os.environ.get(_FOLDER, os.devnull)).glob("*.json")):
        for method, (seconds, count) in json.loads(path.read_text()).items():
            before = found.get(method, (0.0, 0))
            found[method] = (before[0] + seconds, before[1] + int(count))
    return found


class _Selections:
    """A collector for prometheus_client."""

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import SummaryMetricFamily

        family = SummaryMetricFamily(
            "sparevlm_selection_seconds", "Time of choosing among tokens.", labels=["method"]
        )
        for method, (seconds, count) in sums().items():
            family.add_metric([method], count_value=count, sum_value=seconds)
        yield family


def _register() -> None:
    from prometheus_client import REGISTRY, Counter

    _counters["in"] = Counter(
        "sparevlm_visual_tokens_in", "Visual tokens of all pictures.", ["method"]
    )
    _counters["kept"] = Counter(
        "sparevlm_visual_tokens_kept", "Visual tokens that were kept.", ["method"]
    )
    REGISTRY.register(_Selections())
