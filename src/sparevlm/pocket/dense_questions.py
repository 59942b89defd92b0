"""Questions about dense scenes: two and three skills in one, as in MM-Vet."""

from __future__ import annotations

import numpy as np

from sparevlm.pocket.asking import (
    NUMBERS,
    RELATIONS,
    Asker,
    Question,
    beside,
    corner,
    named,
    nearest,
    pick,
)
from sparevlm.pocket.scenes import COLORS, IMAGE_SIZE, SHAPES, Scene, Thing

CORNERS = ("top left", "top right", "bottom left", "bottom right")
LEAST = 5  # pixels by which everything must be on one side of the thing that is asked about


def plural(kind: str) -> str:
    """More than one of a shape."""
    return "crosses" if kind == "cross" else f"{kind}s"


def _nearest_of(scene: Scene, rng: np.random.Generator, digits: bool) -> tuple[Thing, str] | None:
    landmark = named(rng, scene.things)
    if landmark is None:
        return None
    others = [t for t in scene.things if t != landmark[0] and (t.is_digit or not digits)]
    near = nearest(landmark[0], others)
    return None if near is None else (near, landmark[1])


def _color_nearest(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = _nearest_of(scene, rng, digits=False)
    if landmark is None:
        return None
    text = f"what color is the thing nearest to the {landmark[1]} ?"
    return Question(text, landmark[0].color, "color+nearest")


def _reading_nearest(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = _nearest_of(scene, rng, digits=True)
    if landmark is None:
        return None
    text = f"which digit is nearest to the {landmark[1]} ?"
    return Question(text, landmark[0].kind, "reading+nearest")


def _color_position(scene: Scene, rng: np.random.Generator) -> Question | None:
    thing = pick(rng, scene.things)
    where = corner(thing)
    alike = [t for t in scene.things if t.kind == thing.kind]
    if where is None or len(alike) < 2 or any(corner(t) is None for t in alike):
        return None
    if sum(corner(t) == where for t in alike) != 1:
        return None
    text = f"what color is the {thing.kind} in the {where} ?"
    return Question(text, thing.color, "color+position")


def _existence_position(scene: Scene, rng: np.random.Generator) -> Question | None:
    where = pick(rng, CORNERS)
    shapes = [t for t in scene.things if not t.is_digit]
    here = {(t.color, t.kind) for t in shapes if corner(t) == where}
    elsewhere = {(t.color, t.kind) for t in shapes if corner(t) != where} - here
    unsure = {(t.color, t.kind) for t in shapes if corner(t) is None}
    yes = rng.random() < 0.65  # fewer scenes allow it
    thing = pick(rng, sorted((here if yes else elsewhere) - unsure))
    if thing is None:
        return None
    text = f"is there a {thing[0]} {thing[1]} in the {where} ?"
    return Question(text, "yes" if yes else "no", "existence+position")


def _count_color(scene: Scene, rng: np.random.Generator) -> Question | None:
    shapes = [t for t in scene.things if not t.is_digit]
    if rng.random() < 0.8:
        thing = pick(rng, shapes)
        color, kind = thing.color, thing.kind
    else:
        color, kind = pick(rng, sorted(COLORS)), pick(rng, SHAPES)
    number = sum((t.color, t.kind) == (color, kind) for t in shapes)
    return Question(f"how many {color} {plural(kind)} are there ?", NUMBERS[number], "count+color")


def _beside(scene: Scene, rng: np.random.Generator) -> tuple[str, list[Thing]] | None:
    landmark = named(rng, scene.things)
    if landmark is None:
        return None
    relation = pick(rng, list(RELATIONS))
    those = beside(landmark[0], relation, [t for t in scene.things if t != landmark[0]], LEAST)
    return None if those is None else (f"{relation} the {landmark[1]}", those)


def _count_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = _beside(scene, rng)
    if landmark is None:
        return None
    text = f"how many things are {landmark[0]} ?"
    return Question(text, NUMBERS[len(landmark[1])], "count+relation")


def _count_color_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = _beside(scene, rng)
    if landmark is None:
        return None
    color = pick(rng, sorted({t.color for t in scene.things}))
    number = sum(t.color == color for t in landmark[1])
    text = f"how many {color} things are {landmark[0]} ?"
    return Question(text, NUMBERS[number], "count+color+relation")


def _reading_color(scene: Scene, rng: np.random.Generator) -> Question | None:
    digits = sorted((t for t in scene.things if t.is_digit), key=lambda t: int(t.kind))
    if len(digits) < 2:
        return None
    if rng.random() < 0.5:
        digits = digits[::-1]
    if digits[0].kind == digits[1].kind:
        return None
    which = "highest" if int(digits[0].kind) > int(digits[1].kind) else "lowest"
    return Question(f"what color is the {which} digit ?", digits[0].color, "reading+color")


def _reading_count(scene: Scene, rng: np.random.Generator) -> Question | None:
    digits = [t for t in scene.things if t.is_digit]
    unique = [t for t in digits if sum(o.color == t.color for o in digits) == 1]
    digit = pick(rng, unique)
    if digit is None:
        return None
    kind = pick(rng, sorted({t.kind for t in scene.things if not t.is_digit}))
    number = sum(t.kind == kind for t in scene.things)
    if number == int(digit.kind):
        return None
    how = pick(rng, ("higher", "lower"))
    text = f"is the {digit.color} digit {how} than the number of {plural(kind)} ?"
    true = (int(digit.kind) > number) == (how == "higher")
    return Question(text, "yes" if true else "no", "reading+count")


def _sum_position(scene: Scene, rng: np.random.Generator) -> Question | None:
    half = pick(rng, ("top", "bottom", "left", "right"))
    middle = IMAGE_SIZE // 2
    digits = [t for t in scene.things if t.is_digit]
    places = [t.y if half in ("top", "bottom") else t.x for t in digits]
    if any(abs(place - middle) < LEAST for place in places):
        return None
    first = half in ("top", "left")
    those = [int(t.kind) for t, at in zip(digits, places, strict=True) if (at < middle) == first]
    if len(those) != 2:
        return None
    text = f"what is the sum of the digits in the {half} half ?"
    return Question(text, NUMBERS[sum(those)], "sum+position")


ASKERS: dict[str, Asker] = {
    "color+nearest": _color_nearest,
    "reading+nearest": _reading_nearest,
    "color+position": _color_position,
    "existence+position": _existence_position,
    "count+color": _count_color,
    "count+relation": _count_relation,
    "count+color+relation": _count_color_relation,
    "reading+color": _reading_color,
    "reading+count": _reading_count,
    "sum+position": _sum_position,
}
