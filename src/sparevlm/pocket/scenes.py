"""Scenes: pictures drawn from a seed, and what they show.

A scene is 112 x 112 pixels: three to seven coloured shapes and digits of two sizes on a textured,
cluttered background. The same seed gives the same scene on every machine.
Training, validation and test scenes come from disjoint seed ranges (`SEEDS`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

IMAGE_SIZE = 112
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
DIGITS = tuple("0123456789")
KINDS = SHAPES + DIGITS
COLORS = {
    "red": (214, 38, 40),
    "green": (32, 148, 60),
    "blue": (40, 80, 216),
    "yellow": (240, 214, 40),
    "purple": (148, 50, 168),
    "white": (246, 246, 246),
    "black": (16, 16, 16),
}
SIZES = {"small": (15, 16, 17), "large": (25, 27, 29)}

# First seed of each split; a split never leaves its own range of 10**12 seeds.
SEEDS = {"train": 0, "validation": 10**12, "test": 2 * 10**12}


@dataclass(frozen=True)
class Thing:
    """One object of a scene. `x`, `y`: centre in pixels; `extent`: height of its box in pixels."""

    kind: str
    color: str
    size: str
    x: int
    y: int
    extent: int

    @property
    def is_digit(self) -> bool:
        """Whether it is a digit and no shape."""
        return self.kind in DIGITS


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes
    ----------
    image : uint8 array [112, 112, 3], RGB.
    things : the objects, in drawing order; none hides another.
    owner : int64 array [14, 14]; for each patch the index into `things` of the object that covers
        most of it (at least a tenth of the patch), or -1 for background.
    """

    image: np.ndarray
    things: tuple[Thing, ...]
    owner: np.ndarray

    def picture(self) -> Image.Image:
        """The scene as a Pillow image."""
        return Image.fromarray(self.image)


def _regular_star(points: int, inner: float) -> list[tuple[float, float]]:
    corners = []
    for i in range(2 * points):
        radius = 1.0 if i % 2 == 0 else inner
        angle = math.pi * i / points - math.pi / 2
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _heart() -> list[tuple[float, float]]:
    curve = []
    for i in range(48):
        t = 2 * math.pi * i / 48
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        curve.append((x / 16, -(y + 2.5) / 15))
    return curve


_ARM = 0.34
_OUTLINES = {
    "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
    "triangle": [(0.0, -0.95), (1.0, 0.85), (-1.0, 0.85)],
    "star": _regular_star(5, 0.42),
    "heart": _heart(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip


@lru_cache(maxsize=4096)
def _mask(kind: str, extent: int, tilt: int) -> np.ndarray:
    """Opacity [extent, extent] in [0, 1] of a kind, `tilt` degrees clockwise, antialiased."""
    oversampling = 6
    side = extent * oversampling
    canvas = Image.new("L", (side, side))
    pen = ImageDraw.Draw(canvas)
    centre = side / 2
    if kind in DIGITS:
        font = ImageFont.load_default(size=side * 1.05)
        pen.text((centre, centre), kind, fill=255, font=font, anchor="mm", stroke_width=side / 40)
    elif kind == "circle":
        pen.ellipse((side * 0.03, side * 0.03, side * 0.97, side * 0.97), fill=255)
    else:
        pen.polygon([(centre + x * centre, centre + y * centre) for x, y in _OUTLINES[kind]], 255)
    canvas = canvas.rotate(-tilt, resample=Image.Resampling.BILINEAR)
    small = canvas.resize((extent, extent), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255.0


@lru_cache(maxsize=256)
def _stroke(length: int, tilt: int) -> np.ndarray:
    """Opacity [length, length] of a thin line: clutter."""
    canvas = Image.new("L", (length * 4, length * 4))
    middle = length * 2
    ImageDraw.Draw(canvas).line((2, middle, length * 4 - 2, middle), fill=255, width=5)
    small = canvas.rotate(tilt, resample=Image.Resampling.BILINEAR).resize((length, length))
    return np.asarray(small, np.float32) / 255.0


_ROWS, _COLUMNS = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32)


def _background(rng: np.random.Generator) -> np.ndarray:
    """A muted colour, a slow texture (waves or a soft noise), fine noise, and short strokes."""
    base = rng.uniform(95, 165) + rng.uniform(-16, 16, size=3)
    strength = rng.uniform(4, 16)
    if rng.random() < 0.5:
        angle, wave = rng.uniform(0, math.pi), rng.uniform(5, 30)
        slope = _COLUMNS * (math.cos(angle) / wave) + _ROWS * (math.sin(angle) / wave)
        texture = np.sin(slope * (2 * math.pi))
    else:
        cells = int(rng.integers(4, 15))
        coarse = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
        texture = np.asarray(coarse.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR))
    texture = strength * texture + rng.integers(-8, 9, (IMAGE_SIZE, IMAGE_SIZE), dtype=np.int8)
    canvas = base.astype(np.float32) + texture[..., None].astype(np.float32)
    for _ in range(int(rng.integers(4, 14))):
        length = int(rng.integers(6, 15))
        top, left = (int(v) for v in rng.integers(0, IMAGE_SIZE - length, 2))
        shade = (rng.uniform(60, 200) + rng.uniform(-20, 20, 3)).astype(np.float32)
        _blend(canvas, _stroke(length, int(rng.integers(0, 12)) * 15) * 0.7, top, left, shade)
    return canvas


def _blend(canvas: np.ndarray, mask: np.ndarray, top: int, left: int, color: np.ndarray) -> None:
    height, width = mask.shape
    region = canvas[top : top + height, left : left + width]
    region += mask[..., None] * (color - region)


def _arrange(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Three to seven things that do not touch, kinds and colours sometimes repeated."""
    wanted = int(rng.integers(3, 8))
    digits = int(rng.choice(4, p=(0.2, 0.25, 0.45, 0.1)))
    kinds = list(rng.choice(DIGITS, digits)) + list(rng.choice(SHAPES, max(wanted - digits, 0)))
    if rng.random() < 0.35:  # repeat a shape, so that counting has something to count
        favourite = SHAPES[int(rng.integers(len(SHAPES)))]
        kinds = [favourite if k in SHAPES and rng.random() < 0.6 else k for k in kinds]
    palette = list(COLORS)
    favourite_color = palette[int(rng.integers(len(palette)))]
    repeat_color = rng.random() < 0.35
    things: list[Thing] = []
    for kind in kinds:
        color = palette[int(rng.integers(len(palette)))]
        if repeat_color and rng.random() < 0.6:
            color = favourite_color
        size = "small" if rng.random() < 0.5 else "large"
        extent = int(rng.choice(SIZES[size]))
        reach = extent // 2 + 1
        for _ in range(40):
            x, y = (int(v) for v in rng.integers(reach, IMAGE_SIZE - reach, 2))
            if all(math.hypot(x - t.x, y - t.y) > (extent + t.extent) / 2 + 3 for t in things):
                things.append(Thing(str(kind), color, size, x, y, extent))
                break
    return tuple(things)


def draw_scene(seed: int) -> Scene:
    """Draw the scene of a seed (an integer >= 0)."""
    rng = np.random.default_rng(seed)
    things = _arrange(rng)
    canvas = _background(rng)
    cover = np.zeros((len(things) + 1, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for i, thing in enumerate(things):
        limit = 6 if thing.is_digit else 14
        mask = _mask(thing.kind, thing.extent, int(rng.integers(-2, 3)) * limit // 2)
        color = np.asarray(COLORS[thing.color], np.float32) + rng.uniform(-12, 12, 3)
        top, left = thing.y - thing.extent // 2, thing.x - thing.extent // 2
        _blend(canvas, mask, top, left, color.astype(np.float32))
        cover[i, top : top + thing.extent, left : left + thing.extent] = mask
    patches = cover.reshape(-1, GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean(axis=(2, 4))
    patches[-1] = 0.1  # the background wins where no thing covers a tenth of the patch
    owner = patches.argmax(axis=0)
    owner[owner == len(things)] = -1
    return Scene(canvas.clip(0, 255).astype(np.uint8), things, owner.astype(np.int64))
