"""The figures of the page on real features."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bench.studies.common import COLORS, Page
from bench.studies.real.measure import KEEPS
from bench.studies.real.measured import Measured
from sparevlm.files import write_whole

SHOWN = ("spare", "greedy-css", "divprune", "k-center", "norm", "random", "uniform")
MARKS = "osD^vPX"


def over_bound(groups: Sequence[Measured]) -> Figure:
    """Mean error over the least that a subspace of so many dimensions leaves."""
    lines = [
        {name: group.error[name].mean(0) / group.least.mean(0) for name in SHOWN}
        for group in groups
    ]
    figure, panels = _panels([group.title for group in groups], lines)
    panels[0].set(ylabel="error over the best subspace's (SVD)", yscale="log", ylim=(0.9, 120))
    panels[0].set_yticks((1, 2, 5, 10, 20, 50, 100), ("1", "2", "5", "10", "20", "50", "100"))
    panels[0].minorticks_off()
    return _finished(figure, panels, "Error of reconstruction over the least possible")


def regions_hit(groups: Sequence[Measured]) -> Figure:
    """Share of the regions with a kept token; dashed what so many tokens could hit."""
    lines = [
        {name: 100 * np.nanmean(group.all[name], axis=0) for name in SHOWN} for group in groups
    ]
    figure, panels = _panels([group.title for group in groups], lines)
    for axes, group in zip(panels, groups, strict=True):
        most = 100 * np.nanmean(group.most, axis=0)
        axes.plot(KEEPS, most, "--", color="#555555", label="at most")
    panels[0].set(ylabel="regions hit (%)", ylim=(0, 103))
    return _finished(figure, panels, "Regions with a kept token")


def _panels(titles: Sequence[str], lines: Sequence[Mapping[str, np.ndarray]]) -> tuple:
    """A figure and its panels, one a title, a line a method."""
    figure = Figure(figsize=(2.7 * len(titles) + 0.6, 3.7), layout="constrained")
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title, group in zip(panels, titles, lines, strict=True):
        for i, (name, values) in enumerate(group.items()):
            axes.plot(KEEPS, values, MARKS[i] + "-", color=COLORS[i], label=name, markersize=4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(KEEPS, [str(k) for k in KEEPS])
        axes.minorticks_off()
        axes.set(title=title, xlabel="tokens kept, of 196")
        axes.grid(True, color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _finished(figure: Figure, panels: Sequence[Axes], title: str) -> Figure:
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    figure.suptitle(title, fontsize=11)
    return figure


def light(page: Page, what: str, drawn: Figure, alt: str) -> str:
    """Write a figure in few colours, which makes a small file, and give its Markdown."""
    full, few = io.BytesIO(), io.BytesIO()
    drawn.savefig(full, format="png", dpi=100)
    Image.open(full).convert("RGB").quantize(64).save(few, "png", optimize=True)
    path = page.folder / f"{page.name}-{what}.png"
    write_whole(path, few.getvalue())
    return f"![{alt}]({path.name})\n"
