"""Scenes: pictures drawn from a seed, and what they show.

A scene is 112 x 112 pixels on a textured, cluttered background. Three kinds: `plain`, three to
seven coloured shapes and digits of two sizes, apart from each other; `dense`, seven to twelve, the
digits smaller, shapes partly hidden; `pictograms`, things that people know, beside signs with words
and numbers. The same seed gives the same scene on every machine.
Training, validation and test scenes come from disjoint seed ranges (`SEEDS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sparevlm.pocket.pictograms import NAMES, PROPERTIES, SIGN_NUMBERS, SIGN_WORDS, sprite

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
SMALL_DIGITS = (11, 12, 13)  # of dense scenes
PICTOGRAM_SIZES = {"small": (19, 20, 21), "large": (26, 28, 30)}
SIGN = "sign"
SIGN_EXTENT = 30
BOARDS = {"white": (238, 238, 232), "yellow": (246, 218, 60)}

# First seed of each split; a split never leaves its own range of 10**12 seeds.
SEEDS = {"train": 0, "validation": 10**12, "test": 2 * 10**12}


@dataclass(frozen=True)
class Thing:
    """One object of a scene.

    Attributes
    ----------
    kind : str
        A shape, a digit, the name of a pictogram, or "sign".
    color : str
        "" for a pictogram.
    size : str
    x, y : int
        Centre in pixels.
    extent : int
        Side of its box in pixels.
    text : str
        What a sign says.
    """

    kind: str
    color: str
    size: str
    x: int
    y: int
    extent: int
    text: str = ""

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
    things : the objects, in drawing order; only in dense scenes does one hide part of another.
    owner : int64 array [14, 14]; for each patch the index into `things` of the object that shows
        on most of it (at least a tenth of the patch), or -1 for background.
    scenes : which of `SCENES` it is one of.
    """

    image: np.ndarray
    things: tuple[Thing, ...]
    owner: np.ndarray
    scenes: str = "plain"

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


@lru_cache(maxsize=64)
def _board(text: str, color: str) -> tuple[np.ndarray, np.ndarray]:
    """A sign: its colours [extent, extent, 3] and its opacity [extent, extent]."""
    oversampling = 6
    side = SIGN_EXTENT * oversampling
    top, bottom = side * 0.2, side * 0.8
    canvas = Image.new("RGB", (side, side), (40, 40, 44))
    shown = Image.new("L", (side, side))
    ImageDraw.Draw(shown).rectangle((0, top, side, bottom), fill=255)
    pen = ImageDraw.Draw(canvas)
    rim = oversampling
    pen.rectangle((rim, top + rim, side - rim, bottom - rim), fill=BOARDS[color])
    size = side * (0.42 if len(text) > 3 else 0.5)
    font = ImageFont.load_default(size=size)
    pen.text((side / 2, side / 2), text, (20, 20, 24), font, anchor="mm", stroke_width=side / 120)
    box = (SIGN_EXTENT, SIGN_EXTENT)
    pixels = np.asarray(canvas.resize(box, Image.Resampling.BOX), np.float32)
    return pixels, np.asarray(shown.resize(box, Image.Resampling.BOX), np.float32) / 255.0


def _apart(thing: Thing, things: list[Thing]) -> bool:
    """Whether a thing touches none of the others."""
    return all(
        math.hypot(thing.x - t.x, thing.y - t.y) > (thing.extent + t.extent) / 2 + 3 for t in things
    )


def _showing(thing: Thing, things: list[Thing]) -> bool:
    """Whether a thing hides at most about a quarter of each other, and nothing that looks alike."""
    for t in things:
        touching = 0.5 * (thing.extent + t.extent)
        least = touching + 1 if t.is_digit or t.color == thing.color else 0.65 * touching
        if math.hypot(thing.x - t.x, thing.y - t.y) < least:
            return False
    return True


def _place(
    rng: np.random.Generator,
    things: list[Thing],
    fits: Callable[[Thing, list[Thing]], bool],
    kind: str,
    color: str,
    size: str,
    extent: int,
    text: str = "",
) -> None:
    """Add a thing at a place where it fits; none is added where none is found soon."""
    reach = extent // 2 + 1
    for _ in range(40):
        x, y = (int(v) for v in rng.integers(reach, IMAGE_SIZE - reach, 2))
        thing = Thing(kind, color, size, x, y, extent, text)
        if fits(thing, things):
            things.append(thing)
            return


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
        _place(rng, things, _apart, str(kind), color, size, extent)
    return tuple(things)


def _arrange_dense(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Seven to twelve things, mostly small; shapes may be partly hidden."""
    wanted, digits = int(rng.integers(7, 13)), int(rng.integers(2, 6))
    shapes = rng.choice(SHAPES, int(rng.integers(3, 7)), replace=False)  # the fewer, the more alike
    kinds = [*rng.choice(DIGITS, digits), *rng.choice(shapes, wanted - digits)]
    palette = rng.choice(list(COLORS), int(rng.integers(3, 8)), replace=False)
    things: list[Thing] = []
    for kind in kinds:
        size = "small" if rng.random() < 0.75 else "large"
        extents = SMALL_DIGITS if size == "small" and kind in DIGITS else SIZES[size]
        extent = int(rng.choice(extents))
        _place(rng, things, _showing, str(kind), str(rng.choice(palette)), size, extent)
    return tuple(things)


def _arrange_pictograms(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Three to seven pictograms, some alike, and up to two signs: a word, a number."""
    things: list[Thing] = []
    for texts, chance in ((SIGN_WORDS, 0.6), (SIGN_NUMBERS, 0.5)):
        if rng.random() < chance:
            text, board = str(rng.choice(texts)), str(rng.choice(list(BOARDS)))
            _place(rng, things, _apart, SIGN, board, "large", SIGN_EXTENT, text)
    known = sorted(str(rng.choice(list(PROPERTIES))) for _ in range(2))
    names = [str(name) for name in rng.choice(NAMES, int(rng.integers(1, 4)))]
    for of in known:  # things that share a property, so that there is something to tell and count
        names += [str(name) for name in rng.choice(sorted(PROPERTIES[of]), int(rng.integers(0, 4)))]
    names += [t.text for t in things if t.text in NAMES and rng.random() < 0.4]
    if len(names) < 3 or rng.random() < 0.2:
        names += [names[0]] * int(rng.integers(1, 3))
    for name in rng.permutation(names)[:7]:
        size = "small" if rng.random() < 0.6 else "large"
        extent = int(rng.choice(PICTOGRAM_SIZES[size]))
        _place(rng, things, _apart, str(name), "", size, extent)
    return tuple(things)


_ARRANGE = {"plain": _arrange, "dense": _arrange_dense, "pictograms": _arrange_pictograms}
SCENES = tuple(_ARRANGE)


def draw_scene(seed: int, scenes: str = "plain") -> Scene:
    """Draw the scene of a seed (an integer >= 0); `scenes` is one of `SCENES`."""
    rng = np.random.default_rng(seed)
    things = _ARRANGE[scenes](rng)
    canvas = _background(rng)
    cover = np.zeros((len(things) + 1, IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for i, thing in enumerate(things):
        color, mask = _look(thing, rng)
        top, left = thing.y - thing.extent // 2, thing.x - thing.extent // 2
        _blend(canvas, mask, top, left, color)
        box = np.s_[top : top + thing.extent, left : left + thing.extent]
        cover[:i, *box] *= 1 - mask
        cover[i, *box] = mask
    patches = cover.reshape(-1, GRID, PATCH_SIZE, GRID, PATCH_SIZE).mean(axis=(2, 4))
    patches[-1] = 0.1  # the background wins where no thing covers a tenth of the patch
    owner = patches.argmax(axis=0)
    owner[owner == len(things)] = -1
    return Scene(canvas.clip(0, 255).astype(np.uint8), things, owner.astype(np.int64), scenes)


def _look(thing: Thing, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Colours ([3], or a picture [extent, extent, 3]) and opacity of a thing."""
    if thing.kind == SIGN:
        return _board(thing.text, thing.color)
    if thing.kind in NAMES:
        return sprite(thing.kind, thing.extent)
    limit = 6 if thing.is_digit else 14
    mask = _mask(thing.kind, thing.extent, int(rng.integers(-2, 3)) * limit // 2)
    color = np.asarray(COLORS[thing.color], np.float32) + rng.uniform(-12, 12, 3)
    return color.astype(np.float32), mask
