"""Wall time of a call."""

import time
from collections.abc import Callable


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3
