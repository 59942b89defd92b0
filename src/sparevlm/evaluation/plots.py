"""Pictures of a run: accuracy against tokens, and against the error of reconstruction."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from sparevlm.figures import COLORS, MARKS, finish


def accuracy_plot(summary: dict[str, Any]) -> Figure:
    """Accuracy against visual tokens, a line a method; all tokens and no picture as levels."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(_by_method(summary).items()):
        points = sorted(points, key=lambda s: s["tokens"])
        axes.plot(
            [s["tokens"] for s in points],
            [100 * s["accuracy"] for s in points],
            color=COLORS[i % len(COLORS)],
            marker=MARKS[i % len(MARKS)],
            markersize=5,
            linewidth=1.5,
            label=name,
        )
    for name, style in (("all tokens", "--"), ("no-image", ":")):
        level = next(100 * s["accuracy"] for s in summary["settings"] if s["method"] == name)
        axes.axhline(level, color="#666666", linestyle=style, linewidth=1, label=name)
    axes.set_xscale("log")
    ticks = sorted({round(s["tokens"]) for points in _by_method(summary).values() for s in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("visual tokens kept")
    axes.set_ylabel("right answers (%)")
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    finish(axes)
    return figure


def residual_plot(summary: dict[str, Any]) -> Figure:
    """Accuracy against the relative squared residual, a point a method and budget."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(_by_method(summary).items()):
        axes.plot(
            [s["residual"] for s in points],
            [100 * s["accuracy"] for s in points],
            color=COLORS[i % len(COLORS)],
            marker=MARKS[i % len(MARKS)],
            linestyle="none",
            label=name,
        )
    axes.set_xscale("log")
    axes.set_xlabel("feature energy left unexplained")
    axes.set_ylabel("right answers (%)")
    axes.grid(True, color="#dddddd", linewidth=0.8)
    finish(axes)
    return figure


def _by_method(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for setting in summary["settings"]:
        if setting["budget"]:
            groups.setdefault(setting["method"], []).append(setting)
    return groups
