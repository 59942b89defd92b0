"""Pictures of what pruning did: kept patches, relevance, residual curves; and saving them safely.

Nothing here touches matplotlib's global state, so it may run in threads and servers.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from sparevlm.figures import look
from sparevlm.files import write_whole

Box = tuple[float, float, float, float]

SHORTER_SIDE = 448  # pixels an overlay has at least
LONGER_SIDE = 2048  # larger pictures are scaled down to it
OUTLINE = (255, 196, 0)
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FIGURE_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Drawn(Protocol):
    """What is drawn of a picture's report; `sparevlm.report.ImageReport` tells what each is."""

    before: int
    after: int
    indices: Any
    milliseconds: Any
    curve: Any
    scores: Any
    grid: tuple[int, int] | None
    pixels: Any

    @property
    def caption(self) -> str:
        """What is said below."""


# ---------------------------------------------------------------- what the model saw


def seen_region(size: tuple[int, int], image_processor: Any = None) -> Box:
    """Find the part of a picture that the encoder's patches cover.

    Parameters
    ----------
    size : (int, int)
        Width and height of the picture in pixels.
    image_processor
        A Hugging Face image processor, or a processor that has one; None: all is seen.

    Returns
    -------
    (left, top, right, bottom) : floats
        In pixels of the picture; it reaches beyond the picture where the processor pads.
    """
    processor = getattr(image_processor, "image_processor", image_processor)
    width, height = size
    box: Box = (0.0, 0.0, float(width), float(height))
    if getattr(processor, "do_pad", False) and _is_square_padding(processor):
        side = max(width, height)
        left, top = -((side - width) // 2), -((side - height) // 2)
        box = (float(left), float(top), float(left + side), float(top + side))
    if not getattr(processor, "do_center_crop", False):
        return box
    return _centre_crop(box, _resized(box, processor), processor)


def _is_square_padding(processor: Any) -> bool:
    return hasattr(processor, "pad_to_square")


def _resized(box: Box, processor: Any) -> tuple[int, int]:
    """Width and height of the box after the processor's resizing."""
    width, height = round(box[2] - box[0]), round(box[3] - box[1])
    if not getattr(processor, "do_resize", False):
        return width, height
    wanted = processor.size
    shortest = _entry(wanted, "shortest_edge")
    if shortest is None:
        return _entry(wanted, "width") or width, _entry(wanted, "height") or height
    short, long = min(width, height), max(width, height)
    other = int(shortest * long / short)
    longest = _entry(wanted, "longest_edge")
    if longest is not None and other > longest:
        shortest, other = int(longest * shortest / other), longest
    return (shortest, other) if width <= height else (other, shortest)


def _centre_crop(box: Box, resized: tuple[int, int], processor: Any) -> Box:
    width, height = resized
    cut_width = _entry(processor.crop_size, "width") or width
    cut_height = _entry(processor.crop_size, "height") or height
    left, top = (width - cut_width) // 2, (height - cut_height) // 2
    across, down = (box[2] - box[0]) / width, (box[3] - box[1]) / height
    return (
        box[0] + left * across,
        box[1] + top * down,
        box[0] + (left + cut_width) * across,
        box[1] + (top + cut_height) * down,
    )


def _entry(size: Any, name: str) -> int | None:
    """Look up a number of a size, which transformers holds as a dictionary or an object."""
    value = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return None if value is None else int(value)


# ---------------------------------------------------------------- kept patches


def overlay(picture: Image.Image, report: Drawn, image_processor: Any = None) -> Image.Image:
    """Draw which patches were kept.

    Kept patches stay as they are, with a thin outline; dropped ones become grey and dark; what the
    encoder never saw (CLIP crops to a square) is darkest.

    Parameters
    ----------
    picture : PIL.Image.Image
        As it was given to the processor.
    report : Drawn
        One entry of `handle.report`.
    image_processor
        For `seen_region`; None: the patches cover the whole picture.

    Returns
    -------
    PIL.Image.Image
        RGB, in the picture's proportions, its shorter side at least 448 pixels.

    Raises
    ------
    ValueError
        If the tokens form no grid of patches.
    """
    grid = _grid(report)
    canvas = picture.convert("RGB").resize(_canvas_size(picture.size), _filter(picture.size))
    across, down = _edges(picture.size, canvas.size, grid, image_processor)
    kept = np.zeros(grid, bool)
    kept.flat[_numbers(report.indices)] = True
    cells = _paint(kept, across, down, canvas.size)
    seen = _paint(np.ones(grid, bool), across, down, canvas.size)

    colours = np.asarray(canvas, np.float32)
    grey = np.repeat((colours @ _LUMA)[..., None], 3, axis=2)
    dropped = 0.40 * (0.8 * grey + 0.2 * colours) + 14
    shown = np.where(cells[..., None], colours, dropped)
    shown = np.where(seen[..., None], shown, 0.16 * grey + 6)
    line = max(1, round(min(canvas.size) / 240))
    shown[_outline(cells, line)] = OUTLINE
    return Image.fromarray(shown.round().clip(0, 255).astype(np.uint8))


def as_seen(report: Drawn) -> Image.Image:
    """What the encoder saw of a picture, as well as it can be told; grey where it is not known.

    The processor's normalisation is undone up to contrast.

    Raises
    ------
    ValueError
        If the tokens form no grid of patches.
    """
    if report.pixels is None:
        rows, columns = _grid(report)
        return Image.new("RGB", (16 * columns, 16 * rows), (200, 200, 200))
    values = _numbers(report.pixels).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / max(high - low, 1e-12))
    return Image.fromarray(scaled.round().astype(np.uint8).transpose(1, 2, 0))


def report_html(report: Drawn) -> str:
    """A report as HTML with a picture, for notebooks; without a grid, its numbers alone."""
    words = html.escape(report.caption)
    if report.grid is None:
        return f"<p>{words}</p>"
    held = io.BytesIO()
    overlay(as_seen(report), report).save(held, "PNG")
    data = base64.b64encode(held.getvalue()).decode()
    return (
        '<figure style="display: inline-block; margin: 0 1em 1em 0">'
        f'<img src="data:image/png;base64,{data}" alt="{words}" style="max-width: 24em">'
        f'<figcaption style="max-width: 24em">{words}</figcaption></figure>'
    )


def side_by_side(pictures: Sequence[Image.Image], gap: int = 16) -> Image.Image:
    """Put pictures in one row on white, scaled to the height of the lowest.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not pictures:
        raise ValueError("there are no pictures to put side by side: give at least one")
    if len(pictures) == 1:
        return pictures[0]
    height = min(picture.height for picture in pictures)
    scaled = [
        picture.convert("RGB").resize(
            (max(1, round(picture.width * height / picture.height)), height),
            Image.Resampling.LANCZOS,
        )
        for picture in pictures
    ]
    width = sum(picture.width for picture in scaled) + gap * (len(scaled) - 1)
    row = Image.new("RGB", (width, height), "white")
    left = 0
    for picture in scaled:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def _grid(report: Drawn) -> tuple[int, int]:
    if report.grid is None:
        raise ValueError(
            "the tokens of this picture form no grid of patches, so they cannot be drawn on it: "
            "use a model that gives one token a patch"
        )
    return report.grid


def _numbers(values: Any) -> np.ndarray:
    """Bring a tensor or sequence to the host as an array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values
    return np.asarray(values)


def _canvas_size(size: tuple[int, int]) -> tuple[int, int]:
    scale = max(SHORTER_SIDE / min(size), min(1.0, LONGER_SIDE / max(size)))
    width, height = (max(SHORTER_SIDE, round(side * scale)) for side in size)
    return width, height


def _filter(size: tuple[int, int]) -> Image.Resampling:
    # a handful of pixels would only blur into each other
    return Image.Resampling.NEAREST if min(size) < 48 else Image.Resampling.LANCZOS


def _edges(
    size: tuple[int, int], canvas: tuple[int, int], grid: tuple[int, int], image_processor: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the patches on the canvas: across [columns + 1] and down [rows + 1], in pixels."""
    left, top, right, bottom = seen_region(size, image_processor)
    rows, columns = grid
    across = np.linspace(left, right, columns + 1) * (canvas[0] / size[0])
    down = np.linspace(top, bottom, rows + 1) * (canvas[1] / size[1])
    return across, down


def _paint(
    cells: np.ndarray, across: np.ndarray, down: np.ndarray, canvas: tuple[int, int]
) -> np.ndarray:
    """Enlarge cells [rows, columns], bool, to the pixels of a canvas; False outside of them."""
    columns = np.searchsorted(across, np.arange(canvas[0]) + 0.5, side="right") - 1
    rows = np.searchsorted(down, np.arange(canvas[1]) + 0.5, side="right") - 1
    inside_columns = (columns >= 0) & (columns < cells.shape[1])
    inside_rows = (rows >= 0) & (rows < cells.shape[0])
    painted = cells[rows.clip(0, cells.shape[0] - 1)][:, columns.clip(0, cells.shape[1] - 1)]
    return painted & inside_rows[:, None] & inside_columns


def _outline(cells: np.ndarray, line: int) -> np.ndarray:
    """Pixels of an area [H, W] that lie within `line` pixels of its border."""
    inner = np.pad(cells, line)
    height, width = cells.shape
    core = cells.copy()
    for shift in range(2 * line + 1):  # an erosion by a square, one axis after the other
        core &= inner[shift : shift + height, line : line + width]
    inner = np.pad(core, line)
    for shift in range(2 * line + 1):
        core &= inner[line : line + height, shift : shift + width]
    return cells & ~core


# ---------------------------------------------------------------- relevance


def heatmap(
    picture: Image.Image,
    report: Drawn,
    image_processor: Any = None,
    *,
    label: str = "similarity with the question",
) -> Figure:
    """Draw the scores of all patches over the picture, with a colour bar.

    Parameters
    ----------
    picture : PIL.Image.Image
        As it was given to the processor.
    report : Drawn
        One entry of `handle.report`; its kept patches are outlined in white.
    image_processor
        For `seen_region`; None: the patches cover the whole picture.
    label : str
        What the scores are.

    Raises
    ------
    ValueError
        If the method gave no scores, or the tokens form no grid of patches.
    """
    if report.scores is None:
        raise ValueError(
            "the method gave no scores for this picture: use one that looks at the question, "
            'such as SPARE with guidance="anti", and a model whose relevance can be computed'
        )
    grid = _grid(report)
    left, top, right, bottom = seen_region(picture.size, image_processor)
    width, height = picture.size
    shape = height / width
    figure = _figure(5.6, min(max(5.6 * 0.86 * shape, 2.4), 9.0))
    axes = figure.add_subplot()
    grey = picture.convert("L")
    axes.imshow(grey, cmap="gray", vmin=-90, vmax=320, extent=(0, width, height, 0))
    scores = _numbers(report.scores).astype(np.float64).reshape(grid)
    shown = axes.imshow(
        scores, cmap="viridis", alpha=0.62, extent=(left, right, bottom, top),
        interpolation="nearest",
    )  # fmt: skip
    kept = np.zeros(grid, bool)
    kept.flat[_numbers(report.indices)] = True
    across, down = np.linspace(left, right, grid[1] + 1), np.linspace(top, bottom, grid[0] + 1)
    pieces = _borders(kept, across, down)
    for colour, thickness in (("black", 2.6), ("white", 1.3)):  # seen on light and dark alike
        axes.add_collection(
            LineCollection(pieces, colors=colour, linewidths=thickness, capstyle="projecting")
        )
    axes.set(xlim=(min(left, 0), max(right, width)), ylim=(max(bottom, height), min(top, 0)))
    axes.set_axis_off()
    bar = figure.colorbar(shown, ax=axes, fraction=0.046 * min(max(shape, 0.4), 1.6), pad=0.03)
    if bar.solids is not None:
        bar.solids.set_alpha(1.0)
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    return figure


def _borders(
    cells: np.ndarray, across: np.ndarray, down: np.ndarray
) -> list[list[tuple[float, float]]]:
    """Line pieces [(x, y), (x, y)] where kept cells [rows, columns] meet others."""
    framed = np.pad(cells, 1)
    pieces: list[list[tuple[float, float]]] = []
    for row, column in zip(*np.nonzero(framed[:, 1:] != framed[:, :-1]), strict=True):
        x = float(across[column])
        pieces.append([(x, float(down[row - 1])), (x, float(down[row]))])
    for row, column in zip(*np.nonzero(framed[1:] != framed[:-1]), strict=True):
        y = float(down[row])
        pieces.append([(float(across[column - 1]), y), (float(across[column]), y)])
    return pieces


# ---------------------------------------------------------------- residual


def residual_curve(report: Drawn, bound: Any = None) -> Figure:
    """Draw how much of the features is left unexplained as tokens are kept one by one.

    Parameters
    ----------
    report : Drawn
        One entry of `handle.report`, of a method that computes the residual as it picks (SPARE).
    bound : Tensor or sequence [m], or None
        The least relative residual that any 0, 1, .. m - 1 directions leave (the singular value
        bound of the same, weighted, features); drawn as far as the curve goes.

    Returns
    -------
    matplotlib.figure.Figure
        The vertical axis is logarithmic where the curve spans more than a factor of ten.

    Raises
    ------
    ValueError
        If the report holds no curve, or the bound is none.
    """
    if report.curve is None:
        raise ValueError(
            "the method computed no residual while it picked: use SPARE with fewer than all tokens"
        )
    curve = _numbers(report.curve).astype(np.float64)
    figure, axes = _residual_plot({"kept tokens": curve}, bound)
    if bound is None:
        axes.get_legend().remove()
    share = f"{100 * curve[-1]:.2g} % of the feature energy unexplained"
    axes.set_title(
        f"{report.after} of {report.before} tokens leave {share}", loc="left", fontsize=11
    )
    return figure


def residual_curves(
    curves: Mapping[str, Any], bound: Any = None, looks: Sequence[int] | None = None
) -> Figure:
    """Draw how much of the features several methods leave unexplained, token by token.

    Parameters
    ----------
    curves : mapping
        A method's name -> relative squared residuals [k + 1] of the same features, such as
        `ImageReport.reconstruction` gives.
    bound : Tensor or sequence [m], or None
        See `residual_curve`.
    looks : sequence of int, or None
        Which of our colours and line styles each has; None: the first ones.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no curve, or the bound is none.
    """
    if not curves:
        raise ValueError("there are no curves to draw: give at least one")
    arrays = {name: _numbers(curve).astype(np.float64) for name, curve in curves.items()}
    return _residual_plot(arrays, bound, looks)[0]


def _residual_plot(
    curves: Mapping[str, np.ndarray], bound: Any, looks: Sequence[int] | None = None
) -> tuple[Figure, Any]:
    figure = _figure(6.4, 4.2)
    axes = figure.add_subplot()
    last = max(len(curve) for curve in curves.values()) - 1
    chosen = range(len(curves)) if looks is None else looks
    for i, (name, curve) in zip(chosen, curves.items(), strict=True):
        style = look(i) | {"linewidth": 2, "markersize": 4}
        if last > 40:
            style["marker"] = None
        axes.plot(range(len(curve)), curve, label=name, zorder=3, **style)
    lines = list(curves.values())
    if bound is not None:
        lowest = _numbers(bound).astype(np.float64)
        if lowest.ndim != 1:
            raise ValueError(
                f"the bound has shape {list(lowest.shape)}: give a curve [m], as svd_bound "
                "computes it for k=None"
            )
        lowest = lowest[: last + 1]
        lines.append(lowest)
        axes.plot(
            range(len(lowest)), lowest, color="#777777", linewidth=1.5,
            linestyle=(0, (4, 2)), label="SVD bound (no subset can be lower)",
        )  # fmt: skip
    axes.legend(frameon=False)
    _scale_residual(axes, np.concatenate(lines))
    axes.set_xlabel("visual tokens kept")
    axes.set_ylabel("relative squared residual (%)")
    axes.set_xlim(0, max(last, 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(True, which="major", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _scale_residual(axes: Any, values: np.ndarray) -> None:
    positive = values[values > 0]
    if len(positive) and positive.max() > 10 * positive.min():
        axes.set_yscale("log", nonpositive="mask")  # a logarithm has no place for 0
        if positive.max() < 1000 * positive.min():  # powers of ten alone would be too few
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(0, None)
    percent = FuncFormatter(lambda value, _: f"{100 * value:.3g}")
    axes.yaxis.set_major_formatter(percent)


def _figure(width: float, height: float) -> Figure:
    """Make a figure of so many inches with a canvas of its own, outside of pyplot."""
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


# ---------------------------------------------------------------- saving


def check_target(path: str | PathLike[str], suffixes: Sequence[str] = PICTURE_SUFFIXES) -> Path:
    """Say whether a picture can be saved there, before the work of making it.

    Parameters
    ----------
    path : str or path
        Where it is to go; an existing file would be replaced.
    suffixes : sequence of str
        Endings that are possible.

    Raises
    ------
    ValueError
        If the ending is another one, the directory is missing or closed to writing, or the path is
        a directory.
    """
    target, name = Path(path), fspath(path)
    if target.is_dir():
        raise ValueError(f"{name!r} is a directory: give a file name such as picture.png")
    if target.suffix.lower() not in suffixes:
        raise ValueError(f"{name!r} has no known picture ending: use one of {', '.join(suffixes)}")
    if not target.parent.is_dir():
        raise ValueError(
            f"{fspath(target.parent)!r} is no directory, so {target.name!r} cannot be saved there: "
            "create it first"
        )
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ValueError(
            f"{fspath(target.parent)!r} is closed to writing: choose another directory"
        )
    return target


def save(thing: Image.Image | Figure, path: str | PathLike[str]) -> Path:
    """Write a picture or a figure, whole or not at all.

    Parameters
    ----------
    thing : PIL.Image.Image or matplotlib.figure.Figure
        What to write.
    path : str or path
        The ending says the format; an existing file is replaced at the end, in one step.

    Returns
    -------
    Path
        The path.

    Raises
    ------
    TypeError
        If it is neither a picture nor a figure.
    ValueError
        As `check_target` does.
    OSError
        If writing fails; nothing is left behind.
    """
    if isinstance(thing, Image.Image):
        target = check_target(path, PICTURE_SUFFIXES)
    elif isinstance(thing, Figure):
        target = check_target(path, FIGURE_SUFFIXES)
    else:
        raise TypeError(
            f"{type(thing).__name__} cannot be saved: give a PIL image or a matplotlib figure"
        )
    write_whole(target, _encoded(thing, target.suffix.lower()))
    return target


def _encoded(thing: Image.Image | Figure, suffix: str) -> bytes:
    data = io.BytesIO()
    if isinstance(thing, Figure):
        thing.savefig(data, format=suffix[1:])
    else:
        options: dict[str, Any] = {"quality": 92} if suffix in (".jpg", ".jpeg", ".webp") else {}
        form = Image.registered_extensions()[suffix]
        thing.convert("RGB").save(data, format=form, **options)
    return data.getvalue()
