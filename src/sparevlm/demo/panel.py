"""The parts of the page as HTML; `page.js` does what the slider changes, without the server."""

from __future__ import annotations

import base64
import html
import io
import json
from typing import TYPE_CHECKING, Any

import matplotlib
from PIL import Image

from sparevlm import viz

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sparevlm.demo.explorer import Look, Ranks, Said
    from sparevlm.hf import ImageReport

LONGER_SIDE = 896  # pixels of the picture that the page gets
LEAST = 1e-5  # share of the energy below which nothing is drawn


def panel(
    look: Look, label: str, side: str, report: ImageReport, ranks: Ranks | None, processor: Any
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
        f'<figure class="sv-panel sv-{side}" data-look="{words}">'
        f"<figcaption><strong>{html.escape(label)}</strong>"
        f'<span class="sv-count"></span></figcaption>{drawing}'
        '<p class="sv-left"></p><p class="sv-view"></p></figure>'
    )


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


def full(look: Look, right: str | None) -> str:
    """The answer with all tokens."""
    known = f'<span class="sv-note">right: {html.escape(right)}</span>' if right else ""
    return (
        f'<div class="sv-said sv-full"><strong>All {look.tokens} tokens</strong>'
        f'<span class="sv-answer">{_answer(look.full.text)}</span>{known}'
        f'<span class="sv-note">{look.full.first_ms:.1f} ms to the first token</span></div>'
    )


def said(reply: Said, label: str, keep: int) -> str:
    """The answer with a budget, and for methods without one order what they kept."""
    report = reply.report
    kept = json.dumps({"keep": keep, "kept": report.indices.tolist()})
    tokens = f"{report.after} tokens"
    if report.stages:
        tokens = (
            f"{report.tokens:.0f} tokens on average over the layers, {report.after} in the last"
        )
    return (
        f'<div class="sv-said" data-kept="{html.escape(kept, quote=True)}">'
        f"<strong>{html.escape(label)}, {tokens}</strong>"
        f'<span class="sv-answer">{_answer(reply.answer.text)}</span>'
        f'<span class="sv-note">{reply.answer.first_ms:.1f} ms to the first token, '
        f"{report.milliseconds:.1f} of them choosing</span></div>"
    )


def _answer(text: str) -> str:
    return html.escape(text) or "(no answer)"


def note(words: str) -> str:
    """A sentence on what to do."""
    return f'<p class="sv-note">{html.escape(words)}</p>'


def refused(words: str) -> str:
    """A sentence on what went wrong, which screen readers say at once."""
    return f'<p class="sv-refused" role="alert">{html.escape(words)}</p>'


def curves(orders: Mapping[str, Ranks]) -> str:
    """What is left unexplained at every budget, beside the least that could be."""
    if not orders:
        return ""
    longest = max(orders.values(), key=lambda ranks: len(ranks.bound))
    figure = viz.residual_curves(
        {name: ranks.curve for name, ranks in orders.items()}, longest.bound
    )
    figure.set_size_inches(7.6, 3.6)
    figure.patch.set_alpha(0)
    axes = figure.axes[0]
    axes.patch.set_alpha(0)
    axes.set_ylim(bottom=max(axes.get_ylim()[0], LEAST))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sparevlm"}):
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
        f'<figure class="sv-curve" data-place="{html.escape(place, quote=True)}">'
        "<figcaption>What the kept tokens leave unexplained of all tokens' energy"
        f"</figcaption>{drawing}</figure>"
    )
