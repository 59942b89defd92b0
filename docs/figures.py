"""Draw the figures of how_spare_works.md: python docs/figures.py."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
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


if __name__ == "__main__":
    loaded = load("pocket")
    HERE.mkdir(exist_ok=True)
    for draw in (order, residual, budgets):
        draw(*loaded)
