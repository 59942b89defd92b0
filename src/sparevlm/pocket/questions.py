"""Questions about scenes, with answers that are known, and the words they are made of.

The same seed gives the same questions on every machine.
"""

from __future__ import annotations

import numpy as np

from sparevlm.pocket import dense_questions, pictogram_questions, plain_questions
from sparevlm.pocket.asking import NUMBERS, Asker, Question
from sparevlm.pocket.pictograms import CATEGORIES, NAMES, PLURALS, SIGN_NUMBERS, SIGN_WORDS
from sparevlm.pocket.scenes import COLORS, KINDS, SEEDS, SHAPES, SIZES, Scene, draw_scene

__all__ = ["NUMBERS", "SKILLS", "Question", "ask", "sample", "skills", "words"]

_ASKERS: dict[str, dict[str, Asker]] = {
    "plain": plain_questions.ASKERS,
    "dense": dense_questions.ASKERS,
    "pictograms": pictogram_questions.ASKERS,
}
SKILLS = tuple(plain_questions.ASKERS)
"""Those of plain scenes."""


def skills(scenes: str = "plain") -> tuple[str, ...]:
    """The skills that questions about one kind of scenes ask for."""
    return tuple(_ASKERS[scenes])


def ask(scene: Scene, skill: str, rng: np.random.Generator) -> Question | None:
    """One question of a skill about a scene, or None where the scene allows none.

    About dense scenes the questions of plain ones can be asked too.
    """
    askers = _ASKERS[scene.scenes]
    asker = askers[skill] if skill in askers else plain_questions.ASKERS[skill]
    for _ in range(6):
        question = asker(scene, rng)
        if question is not None:
            return question
    return None


def sample(split: str, index: int, scenes: str = "plain") -> tuple[Scene, Question]:
    """The `index`-th example of a split: skills in turn, one scene each.

    Where a scene allows no question of the skill, the next scene of the split's range is drawn.
    """
    asked = skills(scenes)
    skill = asked[index % len(asked)]
    for attempt in range(1000):
        seed = SEEDS[split] + index * 1000 + attempt
        scene = draw_scene(seed, scenes)
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
    half highest lowest higher lower than does sign say says on them be eaten fly worn
    make music live sea drive road true something added pictures
    """.split()
    plurals = [f"{s}s" for s in SHAPES if s != "cross"] + ["crosses"]
    known = (KINDS, COLORS, SIZES, NUMBERS, NAMES, CATEGORIES, PLURALS.values())
    signs = (*SIGN_WORDS, *SIGN_NUMBERS)
    return sorted({*text, *plurals, *signs, *(w for group in known for w in group), *"?.:,"})
