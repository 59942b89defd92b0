"""Scenes: drawn from a seed, and true to what they say."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sparevlm.pocket.questions import NUMBERS, SKILLS, ask, sample, words
from sparevlm.pocket.scenes import (
    COLORS,
    GRID,
    IMAGE_SIZE,
    PATCH_SIZE,
    SEEDS,
    SIZES,
    draw_scene,
)


def test_a_seed_gives_one_scene():
    first, again, other = draw_scene(5), draw_scene(5), draw_scene(6)
    assert np.array_equal(first.image, again.image) and first.things == again.things
    assert not np.array_equal(first.image, other.image)
    assert first.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3) and first.image.dtype == np.uint8
    assert first.picture().size == (IMAGE_SIZE, IMAGE_SIZE)


def test_a_fixed_scene_stays_the_same():
    things = [(t.kind, t.color, t.size, t.x, t.y) for t in draw_scene(0).things]
    assert things == FIRST


FIRST = [
    ("6", "purple", "large", 92, 37),
    ("square", "white", "small", 12, 80),
    ("circle", "white", "small", 90, 10),
    ("circle", "yellow", "small", 48, 46),
    ("circle", "red", "small", 72, 58),
    ("square", "purple", "large", 96, 81),
    ("cross", "black", "large", 46, 86),
]


@pytest.mark.parametrize("seed", range(40))
def test_things_lie_apart_and_inside(seed):
    things = draw_scene(seed).things
    assert 1 <= len(things) <= 7
    for i, a in enumerate(things):
        assert a.extent in SIZES[a.size]
        assert a.extent / 2 <= min(a.x, a.y) and max(a.x, a.y) <= IMAGE_SIZE - a.extent / 2
        for b in things[:i]:
            assert np.hypot(a.x - b.x, a.y - b.y) > (a.extent + b.extent) / 2


def test_patches_show_what_owner_says():
    right = total = 0
    for seed in range(60):
        scene = draw_scene(seed)
        for i, thing in enumerate(scene.things):
            row, column = thing.y // PATCH_SIZE, thing.x // PATCH_SIZE
            if thing.kind in ("square", "circle"):  # solid in the middle
                total += 1
                right += int(scene.owner[row, column] == i)
                pixel = scene.image[thing.y, thing.x].astype(int)
                assert np.abs(pixel - np.array(COLORS[thing.color])).max() <= 13
    assert right == total > 20


def test_splits_are_disjoint():
    starts = sorted(SEEDS.values())
    assert all(b - a >= 10**12 for a, b in pairwise(starts))


@pytest.mark.parametrize("skill", SKILLS)
def test_answers_are_in_the_vocabulary_and_varied(skill):
    known, answers, texts = set(words()), set(), set()
    for seed in range(150):
        question = ask(draw_scene(seed), skill, np.random.default_rng(seed))
        if question is not None:
            assert question.skill == skill
            assert set(question.text.split()) | set(question.answer.split()) <= known
            answers.add(question.answer)
            texts.add(question.text)
    assert len(answers) >= 2
    assert len(texts) > 20 or skill == "sum"


def find(scene, name):
    parts = name.split()
    fits = [
        t
        for t in scene.things
        if t.kind == parts[-1] and all(p in (t.color, t.size) for p in parts[:-1])
    ]
    assert len(fits) == 1, (name, scene.things)
    return fits[0]


def test_relations_and_positions_are_true():
    checked = 0
    for seed in range(300):
        scene = draw_scene(seed)
        question = ask(scene, "relation", np.random.default_rng(seed))
        if question is not None:
            text = question.text.removeprefix("is the ").removesuffix(" ?")
            for relation, true in (
                (" left of the ", lambda a, b: a.x < b.x),
                (" right of the ", lambda a, b: a.x > b.x),
                (" above the ", lambda a, b: a.y < b.y),
                (" below the ", lambda a, b: a.y > b.y),
            ):
                if relation in text:
                    a, b = (find(scene, name) for name in text.split(relation))
                    assert question.answer == ("yes" if true(a, b) else "no")
                    checked += 1
        question = ask(scene, "sum", np.random.default_rng(seed))
        if question is not None:
            total = sum(int(t.kind) for t in scene.things if t.is_digit)
            assert question.answer == NUMBERS[total]
    assert checked > 100


def test_samples_are_balanced_and_repeatable():
    skills = [sample("test", i)[1].skill for i in range(20)]
    assert skills == list(SKILLS) * 2
    assert sample("test", 3)[1] == sample("test", 3)[1]
    assert not np.array_equal(sample("test", 3)[0].image, sample("validation", 3)[0].image)
    assert sample("test", 0)[0].owner.shape == (GRID, GRID)
