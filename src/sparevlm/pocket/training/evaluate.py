"""Accuracy of a LLaVA on the questions about scenes: word for word, by skill and overall."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from sparevlm.pocket.questions import sample

WITH_PICTURE = "USER: <image>\n{} ASSISTANT:"
WITHOUT_PICTURE = "USER: {} ASSISTANT:"


@dataclass(frozen=True)
class Score:
    """One answered question."""

    skill: str
    question: str
    answer: str
    said: str

    @property
    def right(self) -> bool:
        return self.said == self.answer


@torch.inference_mode()
def answer(
    model: Any,
    processor: Any,
    split: str,
    count: int,
    scenes: str = "plain",
    *,
    pictures: bool = True,
    pruning: Any = None,
    first: int = 0,
    batch: int = 50,
) -> list[Score]:
    """Answer `count` questions of a split, from `first` on, about one kind of scenes, greedily.

    `pictures` False asks without any picture; `pruning` is a context manager that is entered around
    the whole run, such as ``SPARE(12)(model)``.
    """
    scores = []
    template = WITH_PICTURE if pictures else WITHOUT_PICTURE
    with pruning or nullcontext():
        last = first + count
        for start in range(first, last, batch):
            pairs = [sample(split, i, scenes) for i in range(start, min(start + batch, last))]
            inputs = processor(
                images=[scene.picture() for scene, _ in pairs] if pictures else None,
                text=[template.format(question.text) for _, question in pairs],
                padding=True,
                return_tensors="pt",
            )
            out = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            new = out[:, inputs["input_ids"].shape[1] :]
            said = processor.batch_decode(new, skip_special_tokens=True)
            scores += [
                Score(question.skill, question.text, question.answer, text.strip())
                for (_, question), text in zip(pairs, said, strict=True)
            ]
    return scores


def accuracy(scores: list[Score]) -> dict[str, float]:
    """Share of right answers by skill, and overall."""
    shares = {"overall": sum(s.right for s in scores) / len(scores)}
    for skill in dict.fromkeys(s.skill for s in scores):
        those = [s.right for s in scores if s.skill == skill]
        shares[skill] = sum(those) / len(those)
    return shares


def most_frequent(scores: list[Score]) -> dict[str, float]:
    """What always giving the commonest answer of each skill would score."""
    shares = {}
    for skill in dict.fromkeys(s.skill for s in scores):
        answers = Counter(s.answer for s in scores if s.skill == skill)
        shares[skill] = answers.most_common(1)[0][1] / answers.total()
    return shares
