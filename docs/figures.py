"""Draw the figures of how_spare_works.md: python docs/figures.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from sparevlm import get_method, load, preview, viz

HERE = Path(__file__).parent / "figures"
SCENES = ("pictograms", "scene")
KEEP = 16
METHODS = {"spare": "SPARE", "greedy-css": "greedy CSS", "divprune": "DivPrune", "random": "random"}
GOLD = LinearSegmentedColormap.from_list("picked", ["#ffd400", "#e5632b", "#7a2a8c"])


def seen(model: Any, processor: Any, name: str) -> tuple[Image.Image, Any]:
    picture = Image.open(HERE.parents[1] / "examples" / f"{name}.png").convert("RGB")
    prompt = "USER: <image>\nwhat is it ? ASSISTANT:"
    return picture, processor(images=picture, text=prompt, return_tensors="pt")


def order(model: Any, processor: Any) -> None:
    """Two scenes with the kept patches numbered as they were picked."""
    figure = Figure(figsize=(8.4, 4.4), dpi=150, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), SCENES, strict=True):
        picture, inputs = seen(model, processor, name)
        (report,) = preview(get_method("spare", KEEP, guidance="none"), model, inputs)
        rows, columns = report.grid
        side = picture.width / columns
        axes.imshow(viz.overlay(picture, report), extent=(0, picture.width, picture.height, 0))
        for rank, token in enumerate(report.order.tolist()):
            left, top = token % columns * side, token // columns * picture.height / rows
            color = GOLD(rank / (KEEP - 1))
            axes.add_patch(Rectangle((left, top), side, side, color=color, alpha=0.72, lw=0))
            axes.text(
                left + side / 2, top + side / 2, rank + 1, ha="center", va="center_baseline",
                fontsize=8.5, fontweight="bold",
            )  # fmt: skip
        axes.set_axis_off()
        share = float(report.curve[-1])
        axes.set_title(
            f"{KEEP} of {report.before} tokens leave {100 * share:.1f} % unexplained", fontsize=11
        )
    viz.save(figure, HERE / "order.jpg")


def residual(model: Any, processor: Any) -> None:
    """Residual curves of four methods on one scene, and the bound."""
    _, inputs = seen(model, processor, SCENES[0])
    curves = {}
    for name, label in METHODS.items():
        settings = {"guidance": "none"} if name == "spare" else {}
        (report,) = preview(get_method(name, 64, **settings), model, inputs)
        curves[label], bound = report.reconstruction()
    figure = viz.residual_curves(curves, bound)
    viz.save(figure, HERE / "residual.png")


if __name__ == "__main__":
    loaded = load("pocket")
    HERE.mkdir(exist_ok=True)
    order(*loaded)
    residual(*loaded)
