"""The parts of the page as HTML; `page.js` does what the slider changes, without the server."""

from __future__ import annotations

import base64
import html
import io
import json
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.ticker import MaxNLocator
from PIL import Image

from sparevlm import viz

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sparevlm.demo.explorer import Look, Ranks, Said
    from sparevlm.hf import ImageReport

LONGER_SIDE = 896  # pixels of the picture that the page gets
# Inches, and points of text, which a screen shows as no less than 11 pixels: page.css says from
# which width on a plot is shown.
PLOTS = {"wide": (7.6, 3.6, 11.0), "narrow": (3.9, 4.4, 12.5)}
LEAST = 1e-5  # share of the energy below which nothing is drawn


ABOUT = (
    "**pocket** knows drawn scenes of shapes, digits, pictograms and signs, and nothing else: what "
    "it answers to a photograph is worth nothing. Of 2,000 questions about plain scenes it answers "
    "99.3 % right with all tokens; with 11 of them SPARE leaves 88.4 %, DivPrune 89.6 % and a "
    "random choice 41.5 %, with 22 SPARE 91.9 % and DivPrune 95.5 %: SPARE loses to DivPrune here."
)
PHOTOGRAPH = (
    "pocket knows drawn scenes only: if this is none, its answers are worth nothing. Which patches "
    "stay is what the method would keep all the same."
)


def panel(
    look: Look,
    label: str,
    side: str,
    report: ImageReport,
    ranks: Ranks | None,
    processor: Any,
    asked: Mapping[str, Any],
) -> str:
    """A picture whose tokens can be shown and hidden one by one.

    Parameters
    ----------
    look : Look
    label : str
        Name of the method.
    side : str
        "a" or "b": which of the two it is.
    report : ImageReport
        Of the method on this picture, with any budget.
    ranks : Ranks or None
        The order that serves every budget.
    processor
        Says what part of the picture the patches cover.
    asked : mapping
        The settings that it belongs to, by which the page knows what is out of date.
    """
    data = {
        "side": side,
        "total": look.tokens,
        "ranks": ranks.ranks if ranks else None,
        "curve": _rounded(ranks.curve) if ranks else None,
        "bound": _rounded(ranks.bound) if ranks else None,
        "grid": report.grid,
        "heat": report.scores is not None,
    }
    words = html.escape(json.dumps(data), quote=True)
    if report.grid is None:
        drawing = "<p>The tokens of this model form no grid of patches that could be drawn.</p>"
    else:
        drawing = _drawing(look.picture, report, report.grid, side, processor)
    return (
        f'<figure class="sv-panel sv-{side}" data-look="{words}" {_belongs(asked)}>'
        f"<figcaption><strong>{html.escape(label)}</strong>"
        f'<span class="sv-count"></span></figcaption>{drawing}'
        '<p class="sv-left"></p><p class="sv-view"></p></figure>'
    )


def _belongs(asked: Mapping[str, Any]) -> str:
    """An attribute that says which settings something belongs to."""
    return f'data-asked="{html.escape(json.dumps(dict(asked)), quote=True)}"'


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _drawing(
    picture: Image.Image, report: ImageReport, grid: tuple[int, int], side: str, processor: Any
) -> str:
    width, height = picture.size
    left, top, right, bottom = viz.seen_region(picture.size, processor)
    rows, columns = grid
    across, down = (right - left) / columns, (bottom - top) / rows
    colors = _heat(report)
    clips, cells, heats, numbers = [], [], [], []
    for token in range(rows * columns):
        x, y = left + (token % columns) * across, top + (token // columns) * down
        box = f'x="{x:.2f}" y="{y:.2f}" width="{across:.2f}" height="{down:.2f}"'
        clips.append(f"<rect {box}/>")
        cells.append(f"<rect {box}/>")
        if colors:
            heats.append(f'<rect {box} fill="{colors[token]}"/>')
        numbers.append(f'<text x="{x + across / 2:.2f}" y="{y + down / 2:.2f}"></text>')
    x0, y0 = min(left, 0), min(top, 0)
    view = f"{x0:.2f} {y0:.2f} {max(right, width) - x0:.2f} {max(bottom, height) - y0:.2f}"
    image = f'<image href="{_data(picture)}" width="{width}" height="{height}"'
    size = 0.5 * min(across, down)
    return (
        f'<svg viewBox="{view}" role="img" style="--cell: {size:.2f}px">'
        f'<defs><clipPath id="sv-kept-{side}">{"".join(clips)}</clipPath></defs>'
        f'{image} class="sv-dropped"/>{image} clip-path="url(#sv-kept-{side})"/>'
        f'<g class="sv-heat">{"".join(heats)}</g><g class="sv-cells">{"".join(cells)}</g>'
        f'<g class="sv-numbers" aria-hidden="true">{"".join(numbers)}</g></svg>'
    )


def _data(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((LONGER_SIDE, LONGER_SIDE))
    held = io.BytesIO()
    kind = "png" if max(small.size) <= 256 else "jpeg"
    small.save(held, kind, **({} if kind == "png" else {"quality": 88}))
    return f"data:image/{kind};base64,{base64.b64encode(held.getvalue()).decode()}"


def _heat(report: ImageReport) -> list[str]:
    """A color for the score of each token; none without scores."""
    if report.scores is None:
        return []
    scores = report.scores.detach().float().cpu()
    low, high = float(scores.min()), float(scores.max())
    colors = matplotlib.colormaps["viridis"]((scores - low).numpy() / max(high - low, 1e-12))
    return [matplotlib.colors.to_hex(color) for color in colors]


def full(
    look: Look, asked: Mapping[str, Any], right: str | None, warning: str | None = None
) -> str:
    """The answer with all tokens, and what it is worth."""
    known = (
        f'<span class="sv-note">the right answer is {html.escape(right)}</span>' if right else ""
    )
    worth = f'<span class="sv-note sv-worth">{html.escape(warning)}</span>' if warning else ""
    return (
        f'<div class="sv-said sv-full" {_belongs(asked)}><strong>All {look.tokens} tokens</strong>'
        f'<span class="sv-answer">{_answer(look.full.text)}</span>{known}'
        f'<span class="sv-note">{look.full.first_ms:.1f} ms to the first token</span>{worth}</div>'
    )


def said(reply: Said, label: str, asked: Mapping[str, Any]) -> str:
    """The answer with a budget, and for methods without one order what they kept."""
    report = reply.report
    kept = json.dumps({"keep": asked["keep"], "kept": report.indices.tolist()})
    tokens = f"{report.after} tokens"
    if report.stages:
        tokens = (
            f"{report.tokens:.0f} tokens on average over the layers, {report.after} in the last"
        )
    return (
        f'<div class="sv-said" data-kept="{html.escape(kept, quote=True)}" {_belongs(asked)}>'
        f"<strong>{html.escape(label)}, {tokens}</strong>"
        f'<span class="sv-answer">{_answer(reply.answer.text)}</span>'
        f'<span class="sv-note">{reply.answer.first_ms:.1f} ms to the first token, '
        f"{report.milliseconds:.1f} ms of it choosing</span></div>"
    )


def _answer(text: str) -> str:
    return html.escape(text) or "(no answer)"


def note(words: str) -> str:
    """A sentence on what to do."""
    return f'<p class="sv-note">{html.escape(words)}</p>'


def refused(words: str, *, file: bool = False) -> str:
    """A sentence on what went wrong, which screen readers say at once; `file`: with the file."""
    mark = " data-file" if file else ""
    return f'<p class="sv-refused" role="alert"{mark}>{html.escape(words)}</p>'


def curves(orders: Mapping[str, tuple[str, Ranks]], asked: Mapping[str, Any]) -> str:
    """What is not explained at every budget, beside the least that could be, in two widths.

    By method, with the side that it is on, whose colour its line has.
    """
    if not orders:
        return ""
    drawn = "".join(_curve(orders, name, *size) for name, size in PLOTS.items())
    return (
        f'<figure class="sv-curves" {_belongs(asked)}><figcaption>What the kept tokens do not '
        f"explain of the features' energy</figcaption>{drawn}</figure>"
    )


def _curve(
    orders: Mapping[str, tuple[str, Ranks]], name: str, width: float, height: float, text: float
) -> str:
    """A plot so many inches large, with text of so many points."""
    longest = max((ranks for _, ranks in orders.values()), key=lambda ranks: len(ranks.bound))
    with matplotlib.rc_context({
        "svg.fonttype": "none", "svg.hashsalt": f"sparevlm-{name}", "font.size": text,
        "xtick.labelsize": text, "ytick.labelsize": text, "legend.fontsize": text,
    }):  # fmt: skip
        figure = viz.residual_curves(
            {label: ranks.curve for label, (_, ranks) in orders.items()},
            longest.bound,
            ["ab".index(side) for side, _ in orders.values()],
        )
        figure.set_size_inches(width, height)
        figure.patch.set_alpha(0)
        axes = figure.axes[0]
        axes.patch.set_alpha(0)
        axes.set_ylim(bottom=max(axes.get_ylim()[0], LEAST))
        axes.set_ylabel("energy not explained (%)")
        if width < height:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            handles, labels = axes.get_legend_handles_labels()
            labels = [label.partition(" (")[0] for label in labels]
            if (within := axes.get_legend()) is not None:
                within.remove()
            figure.legend(handles, labels, loc="outside upper left", frameon=False)
        held = io.StringIO()
        figure.savefig(held, format="svg", metadata={"Date": None})
    ends = axes.transData.transform([(0, axes.get_ylim()[0]), (100, axes.get_ylim()[1])])
    scale = 72 / figure.dpi  # an SVG counts points, from the top
    (x0, y0), (x100, y1) = ends * scale
    high = 72 * figure.get_figheight()
    place = json.dumps({"x0": x0, "step": (x100 - x0) / 100, "top": high - y1, "bottom": high - y0})
    drawing = held.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    return (
        f'<div class="sv-curve sv-{name}" data-place="{html.escape(place, quote=True)}">'
        f"{drawing}</div>"
    )
