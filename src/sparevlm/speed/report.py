"""What was timed as numbers (results.json), as tables (report.md) and as plots."""

from __future__ import annotations

import json
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sparevlm.figures import finish, look, offset, png
from sparevlm.files import write_files

SCHEMA = "sparevlm-speed-1"
HEAD = (
    "| method | tokens | encoder ms | selection ms | prefill ms | first token ms | speed-up "
    "| of the ideal | decode ms | KV MB | peak MB | TFLOP |\n|---|" + "---:|" * 11
)
NOTE = (
    "Medians; in brackets the least and the largest of {repeats} repeats, which go round all "
    "methods. Encoder: in pruned calls without layers that no one reads. Selection: what pruning "
    "adds to it. First token: from pixels to the first "
    "new token, pruning included. Speed-up: all tokens' time to the first token over this one's, "
    "run by run. Ideal: the speed-up if pruning cost nothing. KV: keys and values after the "
    "prompt. Peak: what a call allocates beside the weights. TFLOP: matrix products and attention "
    "up to the first token."
)


def write_report(results: dict[str, Any], out: Path) -> None:
    """Write results.json, report.md and the plots.

    Parameters
    ----------
    found : dict
        "about": what ran where; "models": {name: [`Measured.to_dict()`, ..]}.
    out : Path
        Folder.
    """
    data = {"schema": SCHEMA, **results}
    write_files(out, {
        "results.json": (json.dumps(data, indent=1) + "\n").encode(),
        "report.md": markdown(results).encode(),
        "speedup.png": png(speedup_plot(results)),
        "break-even.png": png(break_even_plot(results)),
    })  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    """The report as text."""
    about = results["about"]
    said = "; ".join(f"{name}: {value}" for name, value in about.items())
    parts = ["# Time and memory", said + ".", NOTE.format(repeats=about["repeats"])]
    for name, rows in results["models"].items():
        for (batch, words), part in _calls(rows):
            parts.append(f"## {name}, batch {batch}, {words} words")
            parts.append("\n".join([HEAD, *(_row(row) for row in part)]))
            parts.append(_pays(part))
    parts.append("![speed-up](speedup.png)\n\n![break-even](break-even.png)")
    return "\n\n".join(parts) + "\n"


def _calls(rows: list[dict[str, Any]]) -> Any:
    return ((key, list(part)) for key, part in groupby(rows, lambda r: (r["batch"], r["words"])))


def _row(row: dict[str, Any]) -> str:
    times = row["milliseconds"]
    speed = row["speedup"]
    share = "" if row["keep"] == 1 else f"{speed['median'] / row['ideal']:.0%}"
    cells = [
        row["method"], f"{row['after']}",
        *(f"{times[stage]['median']:.2f}" for stage in ("encoder", "selection", "prefill")),
        _spread(times["first_token"]), _spread(speed), share,
        f"{times['decode']['median']:.2f}", f"{row['kv_bytes'] / 1e6:.1f}",
        f"{row['peak_bytes'] / 1e6:.0f}", f"{row['flops'] / 1e12:.3f}",
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _spread(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['low']:.2f} .. {value['high']:.2f})"


def _pays(rows: list[dict[str, Any]]) -> str:
    """When pruning pays, in words."""
    said = []
    for method, part in _by_method(rows).items():
        share = break_even(part)
        if share is None:
            said.append(f"{method} never pays here")
        elif share == 1:
            said.append(f"{method} pays at every budget measured")
        else:
            said.append(f"{method} pays below {share:.0%} of the tokens")
    return "Time to the first token: " + "; ".join(said) + "."


def _by_method(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["keep"] < 1:
            groups.setdefault(row["method"], []).append(row)
    return {name: sorted(part, key=lambda r: r["keep"]) for name, part in groups.items()}


def break_even(rows: list[dict[str, Any]]) -> float | None:
    """The share of the tokens below which pruning pays.

    Parameters
    ----------
    rows : list of dict
        One method in one call, budgets ascending.

    Returns
    -------
    float or None
        Where the speed-up falls through 1, on the line between two budgets; 1 if it is above 1 at
        all of them, None if at none.
    """
    points = [(row["keep"], row["speedup"]["median"]) for row in rows]
    if all(speed > 1 for _, speed in points):
        return 1.0
    if all(speed <= 1 for _, speed in points):
        return None
    for (low, fast), (high, slow) in pairwise(points):
        if fast > 1 >= slow:
            return low + (high - low) * (fast - 1) / (fast - slow)
    return None  # the more tokens the faster: noise


def speedup_plot(results: dict[str, Any]) -> Figure:
    """Speed-up of the first token against the share kept, a panel a model and call."""
    panels = [
        (f"{name}, batch {batch}, {words} words", rows)
        for name, all_rows in results["models"].items()
        for (batch, words), rows in _calls(all_rows)
    ]
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns + 1.5, 3.4 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for (title, rows), axes in zip(panels, grid, strict=False):
        count = len(_by_method(rows))
        for i, (method, part) in enumerate(_by_method(rows).items()):
            shares = [100 * row["keep"] for row in part]
            speeds = [row["speedup"] for row in part]
            middle = [s["median"] for s in speeds]
            bars = [
                [s["median"] - s["low"] for s in speeds], [s["high"] - s["median"] for s in speeds]
            ]  # fmt: skip
            axes.errorbar(
                [share + 0.6 * offset(i, count) for share in shares],
                middle,
                bars,
                capsize=2,
                label=method,
                **look(i),
            )
            if i == 0:
                ideal = [row["ideal"] for row in part]
                axes.plot(shares, ideal, color="#666666", linestyle=":", label="ideal")
        axes.axhline(1, color="#666666", linewidth=1)
        axes.set(xlabel="visual tokens kept (%)", ylabel="speed-up to the first token")
        axes.set_ylim(bottom=0)
        axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
        finish(axes, title)
        axes.title.set_fontsize(9)
    for axes in list(grid):
        axes.set_visible(False)
    return figure


def break_even_plot(results: dict[str, Any]) -> Figure:
    """The share of tokens below which a method pays, a point a model and call."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    labels: list[str] = []
    shares: dict[str, dict[int, float]] = {}
    for name, rows in results["models"].items():
        for (batch, words), part in _calls(rows):
            labels.append(f"{name}\nbatch {batch}\n{words} words")
            for method, mine in _by_method(part).items():
                share = break_even(mine)
                shares.setdefault(method, {})[len(labels) - 1] = 0 if share is None else 100 * share
    for i, (method, points) in enumerate(shares.items()):
        axes.plot(
            [call + 0.12 * offset(i, len(shares)) for call in points],
            list(points.values()),
            label=method,
            **look(i),
        )
    axes.set_xticks(range(len(labels)), labels, fontsize=7)
    axes.set(ylabel="pays below this share of the tokens (%)", ylim=(-4, 104))
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    finish(axes, "Below which share of its tokens pruning a prompt's picture pays")
    return figure
