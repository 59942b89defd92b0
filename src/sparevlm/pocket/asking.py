"""What questions about scenes are made of: names of things, numbers, places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparevlm.pocket.scenes import IMAGE_SIZE, Scene, Thing

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen"
).split()
MARGIN = 7  # pixels from the middle within which a thing is in neither half


@dataclass(frozen=True)
class Question:
    """A question about a scene; `skill` is one of `skills(scene.scenes)`."""

    text: str
    answer: str
    skill: str


Asker = Callable[[Scene, np.random.Generator], Question | None]
"""Asks for one skill; None where what was drawn does not fit the scene."""


def pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    """One of the options, or None where there is none."""
    return options[int(rng.integers(len(options)))] if len(options) else None


def names(thing: Thing, things: tuple[Thing, ...]) -> list[str]:
    """The shortest phrases that mean this thing and no other."""
    phrases = []
    if sum(t.kind == thing.kind for t in things) == 1:
        phrases.append(thing.kind)
    if thing.color and sum((t.kind, t.color) == (thing.kind, thing.color) for t in things) == 1:
        phrases.append(f"{thing.color} {thing.kind}")
    if sum((t.kind, t.size) == (thing.kind, thing.size) for t in things) == 1 and not phrases:
        phrases.append(f"{thing.size} {thing.kind}")
    return phrases


def named(rng: np.random.Generator, things: tuple[Thing, ...]) -> tuple[Thing, str] | None:
    """One thing that can be named, and a name of it."""
    thing = pick(rng, [t for t in things if names(t, things)])
    return None if thing is None else (thing, pick(rng, names(thing, things)))


def nearest(thing: Thing, others: Sequence[Thing]) -> Thing | None:
    """The nearest of the others; None where the next is not 1.3 times as far."""
    far = sorted(others, key=lambda t: math.hypot(t.x - thing.x, t.y - thing.y))
    if len(far) < 2:
        return None
    near, next_ = (math.hypot(t.x - thing.x, t.y - thing.y) for t in far[:2])
    return far[0] if next_ >= 1.3 * near else None


def corner(thing: Thing) -> str | None:
    """The quarter of the picture that a thing lies in; None too near its middle lines."""
    middle = IMAGE_SIZE // 2
    if min(abs(thing.x - middle), abs(thing.y - middle)) < MARGIN:
        return None
    return ("top " if thing.y < middle else "bottom ") + ("left" if thing.x < middle else "right")


RELATIONS: dict[str, Callable[[Thing, Thing], int]] = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}
"""Relation -> by how many pixels it holds."""


def beside(thing: Thing, relation: str, others: Sequence[Thing], least: int) -> list[Thing] | None:
    """Those of the others that are, say, left of a thing; None if one is within `least` pixels."""
    by = [RELATIONS[relation](other, thing) for other in others]
    if any(abs(distance) < least for distance in by):
        return None
    return [other for other, distance in zip(others, by, strict=True) if distance > 0]
