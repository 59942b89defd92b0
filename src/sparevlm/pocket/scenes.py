"""Scenes: pictures drawn from a seed, with questions whose answers are known.

A scene is 112 x 112 pixels: three to seven coloured shapes and digits of two sizes on a textured,
cluttered background. The same seed gives the same scene and the same questions on every machine.
Training, validation and test scenes come from disjoint seed ranges (`SEEDS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen"
).split()

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
        return Image.fromarray(self.image)


@dataclass(frozen=True)
class Question:
    """A question about a scene; `skill` is one of `SKILLS`."""

    text: str
    answer: str
    skill: str


# ---------------------------------------------------------------- drawing


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


# ---------------------------------------------------------------- questions


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))] if len(options) else None


def _names(thing: Thing, things: tuple[Thing, ...]) -> list[str]:
    """The shortest phrases that mean this thing and no other."""
    names = []
    if sum(t.kind == thing.kind for t in things) == 1:
        names.append(thing.kind)
    if sum((t.kind, t.color) == (thing.kind, thing.color) for t in things) == 1:
        names.append(f"{thing.color} {thing.kind}")
    if sum((t.kind, t.size) == (thing.kind, thing.size) for t in things) == 1 and not names:
        names.append(f"{thing.size} {thing.kind}")
    return names


def _named(rng: np.random.Generator, things: tuple[Thing, ...]) -> tuple[Thing, str] | None:
    thing = _pick(rng, [t for t in things if _names(t, things)])
    return None if thing is None else (thing, _pick(rng, _names(thing, things)))


def _existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    present = {(t.color, t.kind) for t in scene.things}
    if rng.random() < 0.5:
        color, kind = _pick(rng, sorted(present))
        answer = "yes"
    else:
        # Half of the absent pairs mix a colour and a kind that are both there.
        mixed = sorted({(a[0], b[1]) for a in present for b in present} - present)
        absent = sorted({(c, k) for c in COLORS for k in KINDS} - present)
        color, kind = _pick(rng, mixed if mixed and rng.random() < 0.5 else absent)
        answer = "no"
    opening = _pick(rng, ("is there a", "do you see a", "can you see a"))
    return Question(f"{opening} {color} {kind} ?", answer, "existence")


def _color(scene: Scene, rng: np.random.Generator) -> Question | None:
    unique = [t for t in scene.things if sum(o.kind == t.kind for o in scene.things) == 1]
    thing = _pick(rng, unique)
    if thing is None:
        return None
    opening = _pick(rng, ("what color is the", "which color has the", "what is the color of the"))
    return Question(f"{opening} {thing.kind} ?", thing.color, "color")


def _shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    shapes = [t for t in scene.things if not t.is_digit]
    unique = [t for t in shapes if sum(o.color == t.color for o in shapes) == 1]
    thing = _pick(rng, unique)
    if thing is None:
        return None
    opening = _pick(rng, ("what shape is", "which shape is", "what is the shape that is"))
    return Question(f"{opening} {thing.color} ?", thing.kind, "shape")


def _count(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = scene.things
    style = rng.random()
    if style < 0.45:
        present = rng.random() < 0.8
        kind = _pick(rng, sorted({t.kind for t in things if not t.is_digit}) if present else SHAPES)
        if kind is None:
            return None
        plural = "crosses" if kind == "cross" else f"{kind}s"
        number, what = sum(t.kind == kind for t in things), plural
    elif style < 0.85:
        present = rng.random() < 0.8
        color = _pick(rng, sorted({t.color for t in things}) if present else list(COLORS))
        number, what = sum(t.color == color for t in things), f"{color} things"
    elif style < 0.93:
        number, what = sum(t.is_digit for t in things), "digits"
    else:
        number, what = len(things), "things"
    opening = _pick(rng, ("how many {} are there ?", "how many {} do you see ?", "count the {} ."))
    return Question(opening.format(what), NUMBERS[number], "count")


def _size(scene: Scene, rng: np.random.Generator) -> Question | None:
    named = _named(rng, scene.things)
    if named is None or named[1].split()[0] in SIZES:
        return None
    text = _pick(rng, ("is the {} small or large ?", "how large is the {} ?", "what size is the {} ?"))
    return Question(text.format(named[1]), named[0].size, "size")


def _position(scene: Scene, rng: np.random.Generator) -> Question | None:
    middle = IMAGE_SIZE // 2
    named = _named(rng, scene.things)
    if named is None or min(abs(named[0].x - middle), abs(named[0].y - middle)) < 7:
        return None
    answer = "top " if named[0].y < middle else "bottom "
    answer += "left" if named[0].x < middle else "right"
    text = _pick(rng, ("where is the {} ?", "in which corner is the {} ?", "find the {} ."))
    return Question(text.format(named[1]), answer, "position")


_RELATIONS: dict[str, Callable[[Thing, Thing], int]] = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}


def _relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    first, second = _named(rng, scene.things), _named(rng, scene.things)
    if first is None or second is None or first[0] == second[0]:
        return None
    relation = _pick(rng, list(_RELATIONS))
    distance = _RELATIONS[relation](first[0], second[0])
    if abs(distance) < 10:
        return None
    answer = "yes" if distance > 0 else "no"
    return Question(f"is the {first[1]} {relation} the {second[1]} ?", answer, "relation")


def _reading(scene: Scene, rng: np.random.Generator) -> Question | None:
    digits = [t for t in scene.things if t.is_digit]
    unique = [t for t in digits if sum(o.color == t.color for o in digits) == 1]
    thing = _pick(rng, unique)
    if thing is None:
        return None
    if len(digits) == 1 and rng.random() < 0.5:
        text = _pick(rng, ("what digit is shown ?", "which digit is there ?", "read the digit ."))
    else:
        text = _pick(rng, ("what digit is {} ?", "which digit is {} ?", "read the {} digit ."))
    return Question(text.format(thing.color), thing.kind, "reading")


def _sum(scene: Scene, rng: np.random.Generator) -> Question | None:
    digits = [int(t.kind) for t in scene.things if t.is_digit]
    if len(digits) != 2:
        return None
    text = _pick(
        rng,
        (
            "what is the sum of the digits ?",
            "what do the digits add up to ?",
            "add the two digits .",
        ),
    )
    return Question(text, NUMBERS[sum(digits)], "sum")


def _nearest(scene: Scene, rng: np.random.Generator) -> Question | None:
    named = _named(rng, scene.things)
    if named is None or len(scene.things) < 3:
        return None
    thing, name = named
    others = [t for t in scene.things if t != thing]
    others.sort(key=lambda t: math.hypot(t.x - thing.x, t.y - thing.y))
    near, next_ = (math.hypot(t.x - thing.x, t.y - thing.y) for t in others[:2])
    if next_ < 1.3 * near:
        return None
    opening = _pick(rng, ("what is nearest to the", "what is closest to the", "what is next to the"))
    return Question(f"{opening} {name} ?", f"{others[0].color} {others[0].kind}", "nearest")


_ASKERS: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "existence": _existence,
    "color": _color,
    "shape": _shape,
    "count": _count,
    "size": _size,
    "position": _position,
    "relation": _relation,
    "reading": _reading,
    "sum": _sum,
    "nearest": _nearest,
}
SKILLS = tuple(_ASKERS)


def ask(scene: Scene, skill: str, rng: np.random.Generator) -> Question | None:
    """One question of a skill about a scene, or None where the scene allows none."""
    for _ in range(6):
        question = _ASKERS[skill](scene, rng)
        if question is not None:
            return question
    return None


def sample(split: str, index: int) -> tuple[Scene, Question]:
    """The `index`-th example of a split: skills in turn, one scene each.

    Where a scene allows no question of the skill, the next scene of the split's range is drawn.
    """
    skill = SKILLS[index % len(SKILLS)]
    for attempt in range(1000):
        seed = SEEDS[split] + index * 1000 + attempt
        scene = draw_scene(seed)
        question = ask(scene, skill, np.random.default_rng((seed, 1)))
        if question is not None:
            return scene, question
    raise RuntimeError(f"no scene for {skill} within 1000 seeds of {split} example {index}")


def words() -> list[str]:
    """Every word that a question, an answer or a caption may hold, sorted."""
    text = """
    is there a do you see can what color is the which color has the what is the color of the what shape is
    which shape is what is the shape that is how many are there do you see count the things digits small or
    large how what size where in which corner find left right top bottom of above below digit shown read sum
    add up to two nearest closest next yes no nothing picture with and an image photo user assistant center
    edge middle thing object objects number colour it this scene please one word answer
    """.split()
    plurals = [f"{s}s" for s in SHAPES if s != "cross"] + ["crosses"]
    return sorted({*text, *plurals, *KINDS, *COLORS, *SIZES, *NUMBERS, *"?.:,"})
