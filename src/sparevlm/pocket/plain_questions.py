"""Questions about plain scenes: existence, colour, shape, count, size, place, relation, digits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sparevlm.pocket.asking import NUMBERS, Asker, Question, named, nearest, pick
from sparevlm.pocket.scenes import COLORS, IMAGE_SIZE, KINDS, SHAPES, SIZES, Scene, Thing


def _existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    present = {(t.color, t.kind) for t in scene.things}
    if rng.random() < 0.5:
        color, kind = pick(rng, sorted(present))
        answer = "yes"
    else:
        # Half of the absent pairs mix a colour and a kind that are both there.
        mixed = sorted({(a[0], b[1]) for a in present for b in present} - present)
        absent = sorted({(c, k) for c in COLORS for k in KINDS} - present)
        color, kind = pick(rng, mixed if mixed and rng.random() < 0.5 else absent)
        answer = "no"
    opening = pick(rng, ("is there a", "do you see a", "can you see a"))
    return Question(f"{opening} {color} {kind} ?", answer, "existence")


def _color(scene: Scene, rng: np.random.Generator) -> Question | None:
    unique = [t for t in scene.things if sum(o.kind == t.kind for o in scene.things) == 1]
    thing = pick(rng, unique)
    if thing is None:
        return None
    opening = pick(rng, ("what color is the", "which color has the", "what is the color of the"))
    return Question(f"{opening} {thing.kind} ?", thing.color, "color")


def _shape(scene: Scene, rng: np.random.Generator) -> Question | None:
    shapes = [t for t in scene.things if not t.is_digit]
    unique = [t for t in shapes if sum(o.color == t.color for o in shapes) == 1]
    thing = pick(rng, unique)
    if thing is None:
        return None
    opening = pick(rng, ("what shape is", "which shape is", "what is the shape that is"))
    return Question(f"{opening} {thing.color} ?", thing.kind, "shape")


def _count(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = scene.things
    style = rng.random()
    if style < 0.45:
        present = rng.random() < 0.8
        kind = pick(rng, sorted({t.kind for t in things if not t.is_digit}) if present else SHAPES)
        if kind is None:
            return None
        plural = "crosses" if kind == "cross" else f"{kind}s"
        number, what = sum(t.kind == kind for t in things), plural
    elif style < 0.85:
        present = rng.random() < 0.8
        color = pick(rng, sorted({t.color for t in things}) if present else list(COLORS))
        number, what = sum(t.color == color for t in things), f"{color} things"
    elif style < 0.93:
        number, what = sum(t.is_digit for t in things), "digits"
    else:
        number, what = len(things), "things"
    opening = pick(rng, ("how many {} are there ?", "how many {} do you see ?", "count the {} ."))
    return Question(opening.format(what), NUMBERS[number], "count")


def _size(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = named(rng, scene.things)
    if landmark is None or landmark[1].split()[0] in SIZES:
        return None
    text = pick(
        rng, ("is the {} small or large ?", "how large is the {} ?", "what size is the {} ?")
    )
    return Question(text.format(landmark[1]), landmark[0].size, "size")


def _position(scene: Scene, rng: np.random.Generator) -> Question | None:
    middle = IMAGE_SIZE // 2
    landmark = named(rng, scene.things)
    if landmark is None or min(abs(landmark[0].x - middle), abs(landmark[0].y - middle)) < 7:
        return None
    answer = "top " if landmark[0].y < middle else "bottom "
    answer += "left" if landmark[0].x < middle else "right"
    text = pick(rng, ("where is the {} ?", "in which corner is the {} ?", "find the {} ."))
    return Question(text.format(landmark[1]), answer, "position")


_RELATIONS: dict[str, Callable[[Thing, Thing], int]] = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}


def _relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    first, second = named(rng, scene.things), named(rng, scene.things)
    if first is None or second is None or first[0] == second[0]:
        return None
    relation = pick(rng, list(_RELATIONS))
    distance = _RELATIONS[relation](first[0], second[0])
    if abs(distance) < 10:
        return None
    answer = "yes" if distance > 0 else "no"
    return Question(f"is the {first[1]} {relation} the {second[1]} ?", answer, "relation")


def _reading(scene: Scene, rng: np.random.Generator) -> Question | None:
    digits = [t for t in scene.things if t.is_digit]
    unique = [t for t in digits if sum(o.color == t.color for o in digits) == 1]
    thing = pick(rng, unique)
    if thing is None:
        return None
    if len(digits) == 1 and rng.random() < 0.5:
        text = pick(rng, ("what digit is shown ?", "which digit is there ?", "read the digit ."))
    else:
        text = pick(rng, ("what digit is {} ?", "which digit is {} ?", "read the {} digit ."))
    return Question(text.format(thing.color), thing.kind, "reading")


def _sum(scene: Scene, rng: np.random.Generator) -> Question | None:
    digits = [int(t.kind) for t in scene.things if t.is_digit]
    if len(digits) != 2:
        return None
    text = pick(
        rng,
        (
            "what is the sum of the digits ?",
            "what do the digits add up to ?",
            "add the two digits .",
        ),
    )
    return Question(text, NUMBERS[sum(digits)], "sum")


def _nearest(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = named(rng, scene.things)
    if landmark is None or len(scene.things) < 3:
        return None
    thing, name = landmark
    near = nearest(thing, [t for t in scene.things if t != thing])
    if near is None:
        return None
    opening = pick(rng, ("what is nearest to the", "what is closest to the", "what is next to the"))
    return Question(f"{opening} {name} ?", f"{near.color} {near.kind}", "nearest")


ASKERS: dict[str, Asker] = {
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
