"""Draw the figures of how_spare_works.md and life_of_a_call.md: python docs/figures.py."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from sparevlm import Residual, get_method, load, preview, viz

HERE = Path(__file__).parent / "figures"
SCENES = ("pictograms", "scene")
KEEP = 16
ERRORS = (0.2, 0.05, 0.01)
METHODS = {"spare": "SPARE", "greedy-css": "greedy CSS", "divprune": "DivPrune", "random": "random"}


def seen(model: Any, processor: Any, name: str) -> tuple[Image.Image, Any]:
    picture = Image.open(HERE.parents[1] / "examples" / f"{name}.png").convert("RGB")
    prompt = "USER: <image>\nwhat is it ? ASSISTANT:"
    return picture, processor(images=picture, text=prompt, return_tensors="pt")


def save(figure: Figure, name: str) -> None:
    """As a PNG of 256 colours: a third of the bytes, and no visible difference."""
    held = io.BytesIO()
    figure.savefig(held, format="png")
    picture = Image.open(held).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    picture.save(HERE / name, optimize=True)


def number(axes: Axes, picture: Image.Image, report: Any) -> None:
    """The picture, pale but for the kept patches, which carry their place in the order."""
    rows, columns = report.grid
    width, height = picture.width / columns, picture.height / rows
    axes.imshow(picture, extent=(0, picture.width, picture.height, 0))
    size = picture.size
    axes.add_patch(Rectangle((0, 0), *size, color="white", alpha=0.55, lw=0))
    colors = matplotlib.colormaps["plasma"]
    halo = [withStroke(linewidth=2.5, foreground="white")]
    for rank, token in enumerate(report.order.tolist()):
        left, top = token % columns * width, token // columns * height
        axes.imshow(
            picture.crop((round(left), round(top), round(left + width), round(top + height))),
            extent=(left, left + width, top + height, top),
        )
        color = colors(0.85 * rank / max(1, len(report.order) - 1))
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=color, lw=2))
        axes.text(
            left + width / 2, top + height / 2, rank + 1, ha="center", va="center_baseline",
            fontsize=9, fontweight="bold", path_effects=halo,
        )  # fmt: skip
    axes.set(xlim=(0, picture.width), ylim=(picture.height, 0))
    axes.set_axis_off()


def order(model: Any, processor: Any) -> None:
    """Two scenes with the kept patches numbered as they were picked."""
    figure = Figure(figsize=(8.4, 4.6), dpi=120, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), SCENES, strict=True):
        picture, inputs = seen(model, processor, name)
        (report,) = preview(get_method("spare", KEEP, guidance="none"), model, inputs)
        number(axes, picture, report)
        share = float(report.curve[-1])
        axes.set_title(
            f"{KEEP} of {report.before} tokens leave {100 * share:.1f} % unexplained", fontsize=10
        )
    save(figure, "order.png")


def residual(model: Any, processor: Any) -> None:
    """Residual curves of four methods on one scene, and the bound."""
    _, inputs = seen(model, processor, SCENES[0])
    curves = {}
    for name, label in METHODS.items():
        settings = {"guidance": "none"} if name == "spare" else {}
        (report,) = preview(get_method(name, 64, **settings), model, inputs)
        curves[label], bound = report.reconstruction()
    save(viz.residual_curves(curves, bound), "residual.png")


def budgets(model: Any, processor: Any) -> None:
    """What error budgets keep of two scenes."""
    figure = Figure(figsize=(8.4, 5.8), dpi=120, layout="constrained")
    for row, name in zip(figure.subplots(len(SCENES), len(ERRORS)), SCENES, strict=True):
        picture, inputs = seen(model, processor, name)
        for axes, error in zip(row, ERRORS, strict=True):
            method = get_method("spare", Residual(error), guidance="none")
            (report,) = preview(method, model, inputs)
            axes.imshow(viz.overlay(picture, report))
            axes.set_axis_off()
            axes.set_title(f"Residual({error}): {report.after} tokens", fontsize=10)
    save(figure, "budgets.png")


def road(model: Any, processor: Any) -> None:
    """The steps of a call, and what the prompt is at each."""
    _, inputs = seen(model, processor, SCENES[0])
    ids = inputs["input_ids"]
    method = get_method("spare", 12, guidance="none")
    shorter = method.prune_inputs(model, inputs)
    with method(model) as handle:
        out = model.generate(**inputs, max_new_tokens=8)
    (report,) = handle.report
    new, width = out.shape[1] - ids.shape[1], model.config.text_config.hidden_size
    steps = [
        ("before.py", "generate(**inputs)", f"ids {list(ids.shape)}, 1 picture"),
        (
            "reading.py",
            "Prompt",
            f"{report.before} placeholders, {ids.shape[1] - report.before} words",
        ),
        ("encode.py", "the model's encoder, once", f"features {[report.before, width]}"),
        ("choosing.py", "method.reduce", f"{report.after} of {report.before} stay"),
        ("prompt.py", "one index for all", f"ids {list(shorter['input_ids'].shape)}"),
        ("stock transformers", "prefill and decode", "mm_encoder_outputs"),
        ("turns.py", "the cache remembers", "whole and short prompt"),
        ("before.py", "back to the user", f"ids {list(out.shape)}: prompt + {new}"),
    ]
    figure = Figure(figsize=(9.4, 2.6), dpi=100, layout="constrained")
    axes = figure.subplots()
    boxes = []
    for i, (file, what, shape) in enumerate(steps):
        column, row = (i, 1) if i < 4 else (7 - i, 0)  # there above, back below
        colors = ("#eef1fb", "#3f51b5") if file.endswith(".py") else ("#f3f3f3", "#888888")
        box = {"boxstyle": "round,pad=0.6", "fc": colors[0], "ec": colors[1]}
        words = f"{file}\n{what}\n{shape}"
        text = axes.text(
            column, row, words, ha="center", va="center", fontsize=8, linespacing=1.6, bbox=box
        )
        boxes.append(((column, row), text.get_bbox_patch()))
    axes.set(xlim=(-0.55, 3.55), ylim=(-0.5, 1.5))
    axes.set_axis_off()
    FigureCanvasAgg(figure).draw()  # boxes have a size after that
    for (start, first), (end, last) in pairwise(boxes):
        arrow = {"arrowstyle": "-|>", "color": "#3f51b5", "patchA": first, "patchB": last}
        axes.annotate("", end, start, arrowprops=arrow | {"shrinkA": 3, "shrinkB": 3})
    save(figure, "road.png")


if __name__ == "__main__":
    loaded = load("pocket")
    HERE.mkdir(exist_ok=True)
    for draw in (order, residual, budgets, road):
        draw(*loaded)
