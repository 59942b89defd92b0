"""`select` of this tree beside that of another checkout, interleaved in one process."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.clock import milliseconds

# images, tokens, features, kept, and what share of the other's time is aimed at
SHAPES = [
    (8, 196, 256, 65, 0.13),  # the pocket model
    (8, 196, 256, 12, 0.25),
    (32, 256, 2048, 32, 0.38),
    (1, 196, 256, 65, 0.45),
    (1, 196, 256, 12, 0.50),
    (8, 576, 1024, 64, 0.60),
    (1, 576, 512, 63, 0.35),
    (1, 576, 512, 288, 0.15),
    (1, 576, 4096, 64, 1.00),  # LLaVA-1.5
    (1, 2880, 4096, 160, 1.00),  # LLaVA-NeXT
    (1, 16384, 4096, 1024, 1.00),  # 64 frames of a video
]
REPEATS = 15
LONG, LONG_REPEATS = 8192, 3  # tokens from which on fewer pairs are timed


def select_of(checkout: Path) -> Callable[..., Any]:
    """The `select` of another checkout; modules of this one stay what they are."""
    mine = {name: sys.modules.pop(name) for name in list(sys.modules) if _ours(name)}
    registered = torch.library.custom_op
    sys.path.insert(0, str(checkout / "src"))
    torch.library.custom_op = _unregistered  # type: ignore[assignment]
    try:
        from sparevlm.selection import select

        assert Path(sys.modules["sparevlm"].__file__ or "").is_relative_to(checkout.resolve())
        return select
    finally:
        torch.library.custom_op = registered
        sys.path.pop(0)
        for name in [name for name in sys.modules if _ours(name)]:
            del sys.modules[name]
        sys.modules.update(mine)


def _ours(name: str) -> bool:
    return name.split(".")[0] == "sparevlm"


def _unregistered(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """An operation of this name is registered already; it is for torch.compile alone."""

    class Plain:
        def __init__(self, call: Any) -> None:
            self._call = call

        def __call__(self, *args: Any) -> Any:
            return self._call(*args)

        def register_fake(self, fake: Any) -> Any:
            return fake

    return Plain


def table(mine: Callable[..., Any], other: Callable[..., Any]) -> str:
    """Medians of both, and of the ratios of pairs."""
    lines = ["images, tokens x features, kept   other ms   here ms   ratio (min .. max)   target"]
    for b, n, d, k, target in SHAPES:
        draw = torch.Generator().manual_seed(0)
        rows = torch.randn(b, n, d, generator=draw) * torch.rand(b, n, 1, generator=draw).exp()
        first, second = other(rows, k), mine(rows, k)
        same = int((first.order == second.order).all(1).sum())
        pairs = [
            [milliseconds(partial(select, rows, k)) for select in (other, mine)]
            for _ in range(REPEATS if n < LONG else LONG_REPEATS)
        ]
        ratios = [here / there for there, here in pairs]
        theirs, ours = (statistics.median(part) for part in zip(*pairs, strict=True))
        lines.append(
            f"{b}, {n} x {d}, {k}".ljust(33)
            + f"{theirs:>9.2f} {ours:>9.2f} {statistics.median(ratios):>7.2f} "
            f"({min(ratios):.2f} .. {max(ratios):.2f})   {target:.2f}   {same} of {b} orders alike"
        )
    return "\n".join(lines)
