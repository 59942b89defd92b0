"""Questions about pictograms and signs: recognition, knowledge, reading, counting and space."""

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
from sparevlm.pocket.pictograms import (
    CATEGORIES,
    NAMES,
    PLURALS,
    PROPERTIES,
    SIGN_NUMBERS,
    category,
)
from sparevlm.pocket.scenes import SIGN, Scene, Thing

LEAST = 5


def _pictograms(scene: Scene) -> list[Thing]:
    return [t for t in scene.things if t.kind != SIGN]


def _true_of(scene: Scene) -> list[str]:
    """The properties that something in the scene has."""
    kinds = {t.kind for t in _pictograms(scene)}
    return sorted(what for what, members in PROPERTIES.items() if members & kinds)


def _property(scene: Scene, rng: np.random.Generator, chance: float) -> str:
    """A property: with this chance one that something has."""
    true = _true_of(scene)
    chosen: str = pick(rng, true if true and rng.random() < chance else sorted(PROPERTIES))
    return chosen


def _signs(scene: Scene, numbers: bool) -> list[Thing]:
    return [t for t in scene.things if t.kind == SIGN and (t.text in SIGN_NUMBERS) == numbers]


def _recognition(scene: Scene, rng: np.random.Generator) -> Question | None:
    here = {t.kind for t in _pictograms(scene)}
    if rng.random() < 0.5:
        unique = [
            t for t in _pictograms(scene)
            if category(t.kind) in PLURALS
            and sum(category(o.kind) == category(t.kind) for o in _pictograms(scene)) == 1
        ]  # fmt: skip
        thing = pick(rng, unique)
        if thing is None:
            return None
        return Question(f"which {category(thing.kind)} is there ?", thing.kind, "recognition")
    if rng.random() < 0.5:
        return Question(f"is there a {pick(rng, sorted(here))} ?", "yes", "recognition")
    # Half of the absent ones are of a category that is there.
    like = {name for kind in here for name in CATEGORIES[category(kind)]} - here
    absent = sorted(like if like and rng.random() < 0.5 else set(NAMES) - here)
    return Question(f"is there a {pick(rng, absent)} ?", "no", "recognition")


def _knowledge(scene: Scene, rng: np.random.Generator) -> Question | None:
    what = _property(scene, rng, 0.5)
    those = sorted({t.kind for t in _pictograms(scene)} & PROPERTIES[what])
    if len(those) == 1 and rng.random() < 0.6:
        return Question(f"what {what} ?", those[0], "knowledge")
    text = f"is there something that {what} ?"
    return Question(text, "yes" if those else "no", "knowledge")


def _reading(scene: Scene, rng: np.random.Generator) -> Question | None:
    words, numbers = _signs(scene, numbers=False), _signs(scene, numbers=True)
    if words and (not numbers or rng.random() < 0.5):
        text = pick(
            rng, ("what does the sign say ?", "which word is on the sign ?", "read the word .")
        )
        return Question(text, words[0].text, "reading")
    if not numbers:
        return None
    text = pick(
        rng, ("what number is on the sign ?", "which number is there ?", "read the number .")
    )
    return Question(text, numbers[0].text, "reading")


def _count(scene: Scene, rng: np.random.Generator) -> Question | None:
    if rng.random() < 0.2:
        number, what = len(_pictograms(scene)), "pictures are there"
    elif rng.random() < 0.5:
        kind = pick(rng, sorted({t.kind for t in _pictograms(scene)}))
        number, what = sum(t.kind == kind for t in scene.things), f"of them are a {kind}"
    else:
        here = sorted({category(t.kind) for t in _pictograms(scene)} & set(PLURALS))
        group = pick(rng, here if here and rng.random() < 0.8 else sorted(PLURALS))
        number = sum(category(t.kind) == group for t in _pictograms(scene))
        what = f"{PLURALS[group]} are there"
    return Question(f"how many {what} ?", NUMBERS[number], "count")


def _position(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = named(rng, scene.things)
    where = corner(landmark[0]) if landmark else None
    if landmark is None or where is None:
        return None
    return Question(f"where is the {landmark[1]} ?", where, "position")


def _relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    first, second = named(rng, scene.things), named(rng, scene.things)
    if first is None or second is None or first[0] == second[0]:
        return None
    relation = pick(rng, list(RELATIONS))
    distance = RELATIONS[relation](first[0], second[0])
    if abs(distance) < 10:
        return None
    text = f"is the {first[1]} {relation} the {second[1]} ?"
    return Question(text, "yes" if distance > 0 else "no", "relation")


def _nearest(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = named(rng, scene.things)
    if landmark is None:
        return None
    near = nearest(landmark[0], [t for t in _pictograms(scene) if t != landmark[0]])
    if near is None:
        return None
    text = f"which picture is nearest to the {landmark[1]} ?"
    return Question(text, near.kind, "recognition+nearest")


def _knowledge_count(scene: Scene, rng: np.random.Generator) -> Question | None:
    what = _property(scene, rng, 0.85)
    number = sum(t.kind in PROPERTIES[what] for t in _pictograms(scene))
    return Question(f"how many of them {what} ?", NUMBERS[number], "knowledge+count")


def _knowledge_count_relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    landmark = named(rng, scene.things)
    what = _property(scene, rng, 0.95)
    if landmark is None:
        return None
    relation = pick(rng, list(RELATIONS))
    others = [t for t in _pictograms(scene) if t != landmark[0] and t.kind in PROPERTIES[what]]
    those = beside(landmark[0], relation, others, LEAST)
    if those is None or (not those and rng.random() < 0.6):
        return None
    text = f"how many {relation} the {landmark[1]} {what} ?"
    return Question(text, NUMBERS[len(those)], "knowledge+count+relation")


def _reading_knowledge(scene: Scene, rng: np.random.Generator) -> Question | None:
    signs = [t for t in _signs(scene, numbers=False) if t.text in NAMES]
    if not signs:
        return None
    name = signs[0].text
    if rng.random() < 0.5:
        shown = any(t.kind == name for t in scene.things)
        text = "is there a picture of what the sign says ?"
        return Question(text, "yes" if shown else "no", "reading+recognition")
    true = [p for p in sorted(PROPERTIES) if name in PROPERTIES[p]]
    what = pick(rng, true if true and rng.random() < 0.6 else sorted(PROPERTIES))
    text = f"is it true that what the sign says {what} ?"
    return Question(text, "yes" if name in PROPERTIES[what] else "no", "reading+recognition")


def _reading_sum(scene: Scene, rng: np.random.Generator) -> Question | None:
    numbers = _signs(scene, numbers=True)
    group = pick(rng, sorted({category(t.kind) for t in _pictograms(scene)} & set(PLURALS)))
    if group is None:
        return None
    count = sum(category(t.kind) == group for t in _pictograms(scene))
    if not numbers:
        return None
    total = int(numbers[0].text) + count
    if total >= len(NUMBERS):
        return None
    text = f"what is the number on the sign and the number of {PLURALS[group]} added up ?"
    return Question(text, NUMBERS[total], "reading+count+sum")


ASKERS: dict[str, Asker] = {
    "recognition": _recognition,
    "knowledge": _knowledge,
    "reading": _reading,
    "count": _count,
    "position": _position,
    "relation": _relation,
    "recognition+nearest": _nearest,
    "knowledge+count": _knowledge_count,
    "knowledge+count+relation": _knowledge_count_relation,
    "reading+recognition": _reading_knowledge,
    "reading+count+sum": _reading_sum,
}
