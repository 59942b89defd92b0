"""What was timed, and the table of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RUNTIMES = ("openvino", "sparevlm")


@dataclass(frozen=True)
class Call:
    """Milliseconds of one call, of pruning within it, and the visual tokens it kept."""

    ms: float
    pruning: float | None = None
    kept: int | None = None


Rounds = Sequence[Mapping[tuple[str, int], Call]]  # by runtime and percent removed


def table(rounds: Rounds, tokens: int) -> str:
    """Medians over rounds; shares are medians of each round's own share."""
    lines = [
        "| runtime | removed | kept | first token, ms | share of unpruned (min .. max) "
        "| pruning, ms |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for runtime, removed in rounds[0]:
        calls = [one[runtime, removed] for one in rounds]
        shares = [one[runtime, removed].ms / one[runtime, 0].ms for one in rounds]
        spent = [call.pruning for call in calls if call.pruning is not None]
        share = f"{statistics.median(shares):.2f} ({min(shares):.2f} .. {max(shares):.2f})"
        lines.append(
            f"| {runtime} | {removed} % | {calls[0].kept or tokens} "
            f"| {statistics.median(call.ms for call in calls):.0f} "
            f"| {share if removed else '1'} "
            f"| {f'{statistics.median(spent):.1f}' if spent else ''} |"
        )
    return "\n".join(lines)


def check(
    removed: Sequence[int], hidden: int, vision: int, layers: Sequence[int], at_least_one: int
) -> str | None:
    """What is wrong with the arguments, in a sentence; None if nothing is."""
    if not removed or any(not 1 <= percent <= 99 for percent in removed):
        return "--removed takes percentages from 1 to 99"
    if len(set(removed)) < len(removed):
        return "--removed names a percentage twice"
    if min(hidden, vision) < 64 or hidden % 64 or vision % 64:
        return "--hidden and --vision take multiples of 64, the width of a head"
    if (hidden // 64) % max(1, hidden // 256):
        return "--hidden: heads of keys must divide those of queries, as with 256, 512, 768 or 1024"
    if min(layers) < 1:
        return "--layers and --vision-layers are at least 1"
    if at_least_one < 1:
        return "--rounds and --threads are at least 1"
    return None
