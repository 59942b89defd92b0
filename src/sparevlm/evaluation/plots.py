"""Pictures of a run: accuracy against tokens and against the error, and differences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from sparevlm.figures import GREY, finish, look, offset

Settings = Sequence[dict[str, Any]]
WHISKERS = {"capsize": 2, "elinewidth": 1}


def accuracy_plot(summary: dict[str, Any]) -> Figure:
    """Accuracy against visual tokens, a line a method; all tokens and no picture as levels."""
    figure, axes = _axes()
    groups = _by_method(summary)
    for i, (name, points) in enumerate(groups.items()):
        ours = [100 * s["accuracy"] for s in points]
        whiskers = _whiskers([(s["accuracy"], *_bounds(s.get("interval"))) for s in points])
        axes.errorbar(_places(groups, i), ours, whiskers, label=name, **look(i), **WHISKERS)
    for name, style in (("all tokens", "--"), ("no-image", ":")):
        level = next(100 * s["accuracy"] for s in summary["settings"] if s["method"] == name)
        axes.axhline(level, color=GREY, linestyle=style, linewidth=1, label=name)
    _token_axis(axes, groups)
    axes.set_ylabel("right answers (%)")
    finish(axes, f"How many of {summary['questions']:,} questions are answered right")
    return figure


def difference_plot(summary: dict[str, Any]) -> Figure | None:
    """Differences from SPARE on the same questions, or from random tokens; None without both."""
    groups = _by_method(summary)
    against = next((name for name in ("spare", "random") if name in groups), None)
    if against is None or len(groups) < 2:
        return None
    figure, axes = _axes()
    for i, (name, points) in enumerate(groups.items()):
        if name == against:
            axes.axhline(0, color=look(i)["color"], linewidth=1.5, label=name)
            continue
        found = [(x, s["against"].get(against)) for x, s in _placed(groups, i, points)]
        known = [(x, value) for x, value in found if value is not None]
        if known:
            whiskers = _whiskers([(value[0], *_bounds(value[1:])) for _, value in known])
            axes.errorbar(
                [x for x, _ in known], [100 * value[0] for _, value in known], whiskers,
                label=name, **look(i), **WHISKERS,
            )  # fmt: skip
    _token_axis(axes, groups)
    axes.set_ylabel("points of right answers")
    finish(axes, f"How far from {against}, on the same questions")
    return figure


def residual_plot(summary: dict[str, Any]) -> Figure:
    """Accuracy against the relative squared residual, a point a method and budget."""
    figure, axes = _axes()
    for i, (name, points) in enumerate(_by_method(summary).items()):
        points = [s for s in points if s["residual"] > 0]  # 0: dropped inside the language model
        if points:
            whiskers = _whiskers([(s["accuracy"], *_bounds(s.get("interval"))) for s in points])
            axes.errorbar(
                [s["residual"] for s in points], [100 * s["accuracy"] for s in points], whiskers,
                label=name, **(look(i) | {"linestyle": "none"}), **WHISKERS,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("share of the features' energy that is not explained")
    axes.set_ylabel("right answers (%)")
    finish(axes, "Right answers against the error of reconstruction")
    return figure


def _axes() -> tuple[Figure, Any]:
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    return figure, axes


def _bounds(interval: Sequence[float | None] | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval[0], interval[1])


def _whiskers(values: Sequence[tuple[float, float | None, float | None]]) -> Any:
    """How far bars reach below and above, in percent; None where no interval is known."""
    if any(low is None or high is None for _, low, high in values):
        return None
    below = [100 * max(0, middle - low) for middle, low, _ in values if low is not None]
    above = [100 * max(0, high - middle) for middle, _, high in values if high is not None]
    return [below, above]


def _by_method(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for setting in summary["settings"]:
        if setting["budget"]:
            groups.setdefault(setting["method"], []).append(setting)
    return {name: sorted(points, key=lambda s: s["tokens"]) for name, points in groups.items()}


def _ticks(groups: dict[str, list[dict[str, Any]]]) -> list[int]:
    """Numbers of tokens, less those too near another for both to be written."""
    ticks: list[int] = []
    for tick in sorted({max(1, round(s["tokens"])) for part in groups.values() for s in part}):
        if not ticks or tick > 1.12 * ticks[-1]:
            ticks.append(tick)
    return ticks


def _places(groups: dict[str, list[dict[str, Any]]], i: int) -> list[float]:
    """Tokens of the i-th method's points, moved aside by less than half the way to a neighbour."""
    points = list(groups.values())[i]
    near = min((b / a for a, b in pairwise(_ticks(groups))), default=2.0)
    aside = min(near, 1.5) ** (0.3 * offset(i, len(groups)))
    return [max(1, s["tokens"]) * aside for s in points]


def _placed(
    groups: dict[str, list[dict[str, Any]]], i: int, points: Settings
) -> list[tuple[float, dict[str, Any]]]:
    return list(zip(_places(groups, i), points, strict=True))


def _token_axis(axes: Any, groups: dict[str, list[dict[str, Any]]]) -> None:
    ticks = _ticks(groups)
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens kept (methods of one budget side by side)")
