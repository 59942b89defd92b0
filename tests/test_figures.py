"""Plots stay readable however many lines there are."""

from __future__ import annotations

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparevlm.figures import finish, look


@pytest.mark.parametrize("lines", [2, 16, 17, 40])
def test_a_legend_leaves_room_for_the_axes(lines: int) -> None:
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i in range(lines):
        axes.plot([1, 2], [i, i + 1], label=f"a-method-{i}", **look(i))
    axes.set_xlabel("tokens")
    finish(axes, "title")
    figure.canvas.draw()
    width, height = axes.get_window_extent().size / figure.dpi
    assert width > 4 and height > 3
    legend = axes.get_legend().get_window_extent()
    assert legend.y0 >= -1 and legend.y1 <= figure.get_figheight() * figure.dpi + 1
