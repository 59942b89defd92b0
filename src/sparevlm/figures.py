"""How our plots look."""

from __future__ import annotations

import io
import math
from typing import Any

from matplotlib.figure import Figure

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (5, 1.5)), (0, (1.5, 1)))
GREY = "#666666"
_BESIDE = 16  # entries of a legend that fit beside axes
_COLUMNS = 4


def look(i: int) -> dict[str, Any]:
    """Colour, mark and line of the i-th of several, so that two that meet are told apart."""
    return {
        "color": COLORS[i % len(COLORS)],
        "marker": MARKS[i % len(MARKS)],
        "linestyle": LINES[i % len(LINES)],
        "markersize": 5,
        "linewidth": 1.5,
    }


def offset(i: int, count: int) -> float:
    """Where the i-th of several that share a place is drawn: in [-1, 1], evenly."""
    return 0.0 if count < 2 else 2 * i / (count - 1) - 1


def finish(axes: Any, title: str = "") -> None:
    """A title, two open sides, and the legend beside the axes, or below them if it is long."""
    if title:
        axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    count = len(axes.get_legend_handles_labels()[1])
    if count <= _BESIDE:
        axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return
    figure, lines = axes.figure, math.ceil(count / _COLUMNS)
    figure.set_figheight(figure.get_figheight() + 0.21 * lines)
    axes.legend(
        frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=_COLUMNS
    )


def png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    return data.getvalue()
