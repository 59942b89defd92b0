"""Prometheus: visual tokens in and kept, and seconds of encoding and selection, per method.

Tokens are counted where the server's /metrics lives. Encoder and selection run in workers, which
are processes of their own: each writes its sums to a small file, and the server's collector reads
them.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparevlm.files import write_whole

_FOLDER = "SPAREVLM_METRICS"
_TIMES = {"encoder": "Time of the vision encoder.", "selection": "Time of choosing tokens."}
_counters: dict[str, Any] = {}
_sums: dict[str, dict[str, list[float]]] = {what: {} for what in _TIMES}


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
    _counters["in"].labels(method).inc(total)
    _counters["kept"].labels(method).inc(kept)


def count_seconds(what: str, method: str, seconds: float) -> None:
    """Count one "encoder" run or "selection" in a worker; `write` shows it to the server."""
    total = _sums[what].setdefault(method, [0.0, 0])
    total[0] += seconds
    total[1] += 1


def write() -> None:
    """Write the sums of this worker."""
    folder = Path(os.environ.get(_FOLDER, ""))
    if not folder.is_absolute() or not folder.is_dir():
        return
    write_whole(folder / f"{os.getpid()}.json", json.dumps(_sums))


def sums(what: str) -> dict[str, tuple[float, int]]:
    """Seconds and number of "encoder" runs or "selection"s of all workers, per method."""
    totals: dict[str, tuple[float, int]] = {}
    for path in sorted(Path(os.environ.get(_FOLDER, os.devnull)).glob("*.json")):
        for method, (seconds, count) in json.loads(path.read_text())[what].items():
            before = totals.get(method, (0.0, 0))
            totals[method] = (before[0] + seconds, before[1] + int(count))
    return totals


class _Times:
    """A collector for prometheus_client."""

    def collect(self) -> Iterable[Any]:
        from prometheus_client.core import SummaryMetricFamily

        for what, words in _TIMES.items():
            family = SummaryMetricFamily(f"sparevlm_{what}_seconds", words, labels=["method"])
            for method, (seconds, count) in sums(what).items():
                family.add_metric([method], count_value=count, sum_value=seconds)
            yield family


def register() -> None:
    """Make the metrics known in this process, once."""
    from prometheus_client import REGISTRY, Counter

    if _counters:
        return
    _counters["in"] = Counter(
        "sparevlm_visual_tokens_in", "Visual tokens of all pictures.", ["method"]
    )
    _counters["kept"] = Counter(
        "sparevlm_visual_tokens_kept", "Visual tokens that were kept.", ["method"]
    )
    REGISTRY.register(_Times())
