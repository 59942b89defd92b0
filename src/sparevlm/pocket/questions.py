"""Questions about scenes, with answers that are known, and the words they are made of.

The same seed gives the same questions on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparevlm.pocket.scenes import (
    COLORS,
    IMAGE_SIZE,
    KINDS,
    SEEDS,
    SHAPES,
    SIZES,
    Scene,
    Thing,
    draw_scene,
)

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen"
).split()


@dataclass(frozen=True)
class Question:
    """A question about a scene; `skill` is one of `SKILLS`."""

    text: str
    answer: str
    skill: str


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
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
    text = _pick(
        rng, ("is the {} small or large ?", "how large is the {} ?", "what size is the {} ?")
    )
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
    opening = _pick(
        rng, ("what is nearest to the", "what is closest to the", "what is next to the")
    )
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
    is there a do you see can what color is the which color has the what is the color of the
    what shape is which shape is what is the shape that is how many are there do you see
    count the things digits small or large how what size where in which corner find left
    right top bottom of above below digit shown read sum add up to two nearest closest next
    yes no nothing picture with and an image photo user assistant center edge middle thing
    object objects number colour it this scene please one word answer
    """.split()
    plurals = [f"{s}s" for s in SHAPES if s != "cross"] + ["crosses"]
    return sorted({*text, *plurals, *KINDS, *COLORS, *SIZES, *NUMBERS, *"?.:,"})
