"""Dense scenes and pictograms: what their questions say is true, judged anew from the things."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sparevlm.pocket.asking import NUMBERS
from sparevlm.pocket.pictograms import (
    CATEGORIES,
    COLUMNS,
    NAMES,
    PLURALS,
    PROPERTIES,
    SHEET,
    SIGN_WORDS,
    TILE,
    sprite,
)
from sparevlm.pocket.questions import ask, sample, skills, words
from sparevlm.pocket.scenes import IMAGE_SIZE, SIGN, draw_scene

MIDDLE = IMAGE_SIZE / 2
OTHERS = [(scenes, skill) for scenes in ("dense", "pictograms") for skill in skills(scenes)]


@pytest.mark.parametrize("seed", range(30))
def test_dense_scenes(seed):
    scene = draw_scene(seed, "dense")
    assert 5 <= len(scene.things) <= 12 and scene.scenes == "dense"
    for i, thing in enumerate(scene.things):
        # Something of everything shows: its patches are its own.
        assert (scene.owner == i).any() or thing.extent < 14
        for before in scene.things[:i]:
            apart = math.hypot(thing.x - before.x, thing.y - before.y)
            touching = (thing.extent + before.extent) / 2
            assert apart >= 0.65 * touching
            assert apart >= touching or not (before.is_digit or before.color == thing.color)


def test_dense_scenes_hide_parts_of_things():
    hidden = 0
    for seed in range(40):
        things = draw_scene(seed, "dense").things
        for i, a in enumerate(things):
            for b in things[:i]:
                hidden += math.hypot(a.x - b.x, a.y - b.y) < 0.9 * (a.extent + b.extent) / 2
    assert hidden > 20


@pytest.mark.parametrize("scenes", ["dense", "pictograms"])
def test_a_seed_gives_one_scene(scenes):
    one, again, other = (draw_scene(seed, scenes) for seed in (3, 3, 4))
    assert np.array_equal(one.image, again.image) and one.things == again.things
    assert not np.array_equal(one.image, other.image)


def test_the_sheet_holds_every_pictogram():
    with Image.open(SHEET) as sheet:
        assert sheet.size == (COLUMNS * TILE, -(-len(NAMES) // COLUMNS) * TILE)
    assert len(set(NAMES)) == len(NAMES) >= 100
    shown = {sprite(name, 20)[1].tobytes() + sprite(name, 20)[0].tobytes() for name in NAMES}
    assert len(shown) == len(NAMES)
    assert all(sprite(name, 24)[1].mean() > 0.15 for name in NAMES)
    assert set(PLURALS) < set(CATEGORIES)
    assert all(members <= set(NAMES) for members in PROPERTIES.values())


def test_sprites_show_their_own_colours():
    color, opacity = sprite("apple", 28)
    solid = color[opacity > 0.9].mean(0)
    assert solid[0] > 170 and solid[1] < 90 and solid[2] < 90


# ---------------------------------------------------------------- answers, judged anew


def one(scene, name):
    parts = name.split()
    fits = [
        t
        for t in scene.things
        if t.kind == parts[-1] and all(p in (t.color, t.size) for p in parts[:-1])
    ]
    assert len(fits) == 1, (name, scene.things)
    return fits[0]


def side(thing, relation, other):
    return {
        "left of": thing.x < other.x,
        "right of": thing.x > other.x,
        "above": thing.y < other.y,
        "below": thing.y > other.y,
    }[relation]


def nearest(scene, name, fits):
    thing = one(scene, name)
    others = [t for t in scene.things if t != thing and fits(t)]
    return min(others, key=lambda t: math.hypot(t.x - thing.x, t.y - thing.y))


def inside(thing, where):
    return all(
        {
            "top": thing.y < MIDDLE,
            "bottom": thing.y > MIDDLE,
            "left": thing.x < MIDDLE,
            "right": thing.x > MIDDLE,
        }[w]
        for w in where.split()
    )


def singular(word):
    return {"crosses": "cross"}.get(word, word.removesuffix("s"))


def yes(true):
    return "yes" if true else "no"


def group(plural):
    return CATEGORIES[next(k for k, v in PLURALS.items() if v == plural)]


RELATION = "(left of|right of|above|below)"
NEAR = {
    r"what color is the thing nearest to the (.+) \?": lambda s, n: (
        nearest(s, n, lambda t: True).color
    ),
    r"which digit is nearest to the (.+) \?": lambda s, n: nearest(s, n, lambda t: t.is_digit).kind,
    r"which picture is nearest to the (.+) \?": lambda s, n: (
        nearest(s, n, lambda t: t.kind != SIGN).kind
    ),
}
DENSE = {
    r"what color is the (\w+) in the (top|bottom) (left|right) \?": lambda s, k, a, b: next(
        t.color for t in s.things if t.kind == k and inside(t, f"{a} {b}")
    ),
    r"is there a (\w+) (\w+) in the (\w+ \w+) \?": lambda s, c, k, w: yes(
        any((t.color, t.kind) == (c, k) and inside(t, w) for t in s.things)
    ),
    r"how many (\w+) (\w+) are there \?": lambda s, c, k: NUMBERS[
        sum((t.color, t.kind) == (c, singular(k)) for t in s.things)
    ],
    rf"how many things are {RELATION} the (.+) \?": lambda s, r, n: NUMBERS[
        sum(side(t, r, one(s, n)) for t in s.things)
    ],
    rf"how many (\w+) things are {RELATION} the (.+) \?": lambda s, c, r, n: NUMBERS[
        sum(side(t, r, one(s, n)) and t.color == c for t in s.things)
    ],
    r"what color is the (highest|lowest) digit \?": lambda s, w: {
        "highest": max, "lowest": min
    }[w]((t for t in s.things if t.is_digit), key=lambda t: int(t.kind)).color,
    r"is the (\w+) digit (higher|lower) than the number of (\w+) \?": lambda s, c, w, k: yes(
        (
            next(int(t.kind) for t in s.things if t.is_digit and t.color == c)
            > sum(t.kind == singular(k) for t in s.things)
        )
        == (w == "higher")
    ),
    r"what is the sum of the digits in the (\w+) half \?": lambda s, h: NUMBERS[
        sum(int(t.kind) for t in s.things if t.is_digit and inside(t, h))
    ],
}  # fmt: skip


def pictures(scene):
    return [t for t in scene.things if t.kind != SIGN]


def signs(scene, words):
    return [t.text for t in scene.things if t.kind == SIGN and (t.text in SIGN_WORDS) == words]


PICTOGRAMS = {
    r"which (?!number)(\w+) is there \?": lambda s, g: next(
        t.kind for t in pictures(s) if t.kind in CATEGORIES[g]
    ),
    r"is there a (\w+) \?": lambda s, n: yes(any(t.kind == n for t in pictures(s))),
    r"what (can .+) \?": lambda s, p: next(t.kind for t in pictures(s) if t.kind in PROPERTIES[p]),
    r"is there something that (.+) \?": lambda s, p: yes(
        any(t.kind in PROPERTIES[p] for t in pictures(s))
    ),
    r"what does the sign say \?|which word is on the sign \?|read the word \.": lambda s: signs(
        s, True
    )[0],
    r"what number is on the sign \?|which number is there \?|read the number \.": lambda s: signs(
        s, False
    )[0],
    r"how many pictures are there \?": lambda s: NUMBERS[len(pictures(s))],
    r"how many of them are a (\w+) \?": lambda s, n: NUMBERS[sum(t.kind == n for t in pictures(s))],
    r"how many (\w+) are there \?": lambda s, g: NUMBERS[
        sum(t.kind in group(g) for t in pictures(s))
    ],
    r"where is the (.+) \?": lambda s, n: next(
        f"{v} {h}"
        for v in ("top", "bottom")
        for h in ("left", "right")
        if inside(one(s, n), f"{v} {h}")
    ),
    rf"is the (.+) {RELATION} the (.+) \?": lambda s, a, r, b: yes(side(one(s, a), r, one(s, b))),
    r"how many of them (can .+) \?": lambda s, p: NUMBERS[
        sum(t.kind in PROPERTIES[p] for t in pictures(s))
    ],
    rf"how many {RELATION} the (.+?) (can .+) \?": lambda s, r, n, p: NUMBERS[
        sum(t.kind in PROPERTIES[p] and side(t, r, one(s, n)) for t in pictures(s))
    ],
    r"is there a picture of what the sign says \?": lambda s: yes(
        any(t.kind == signs(s, True)[0] for t in pictures(s))
    ),
    r"is it true that what the sign says (.+) \?": lambda s, p: yes(
        signs(s, True)[0] in PROPERTIES[p]
    ),
    r"what is the number on the sign and the number of (\w+) added up \?": lambda s, g: NUMBERS[
        int(signs(s, False)[0]) + sum(t.kind in group(g) for t in pictures(s))
    ],
}
JUDGES = {"dense": NEAR | DENSE, "pictograms": NEAR | PICTOGRAMS}


def judge(scene, text):
    for pattern, answer in JUDGES[scene.scenes].items():
        found = re.fullmatch(pattern, text)
        if found:
            return answer(scene, *found.groups())
    raise AssertionError(f"nothing judges {text!r}")


@pytest.mark.parametrize(("scenes", "skill"), OTHERS)
def test_answers_are_true_known_and_varied(scenes, skill):
    known, answers = set(words()), Counter()
    for seed in range(150):
        scene = draw_scene(seed, scenes)
        question = ask(scene, skill, np.random.default_rng(seed))
        if question is None:
            continue
        assert question.skill == skill
        assert set(question.text.split()) | set(question.answer.split()) <= known
        assert question.answer == judge(scene, question.text), (question, scene.things)
        answers[question.answer] += 1
    assert answers.total() > 30
    assert answers.most_common(1)[0][1] < 0.75 * answers.total()


@pytest.mark.parametrize("scenes", ["dense", "pictograms"])
def test_samples_are_balanced_and_repeatable(scenes):
    asked = [sample("test", i, scenes)[1].skill for i in range(2 * len(skills(scenes)))]
    assert asked == list(skills(scenes)) * 2
    assert sample("test", 3, scenes)[1] == sample("test", 3, scenes)[1]
    assert sample("test", 3, scenes)[0].scenes == scenes


def test_plain_questions_can_be_asked_about_dense_scenes():
    scene = draw_scene(1, "dense")
    assert ask(scene, "existence", np.random.default_rng(0)).skill == "existence"
