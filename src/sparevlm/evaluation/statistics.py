"""Numbers about answers, with intervals."""

from __future__ import annotations

import math
import string

import numpy as np
from numpy.typing import NDArray

Outcomes = NDArray[np.float64]
"""One number a question: 1 right, 0 wrong; between, where seeds are averaged."""

FEW = 10
"""Questions below which no interval is given: so few values tell too little of their spread."""


def same(said: str, answers: tuple[str, ...]) -> bool:
    """Whether an answer is one of those that are right, case and outer punctuation apart."""
    return _plain(said) in {_plain(answer) for answer in answers}


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(string.punctuation + " ")


def interval(ours: Outcomes, theirs: Outcomes, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of outcomes on the same questions, and its 95 % bootstrap interval.

    Paired: questions are drawn, each with both outcomes (percentile interval, 2,000 resamples).
    """
    from scipy.stats import bootstrap

    difference = ours - theirs
    if np.all(difference == difference[0]):
        mean = float(difference[0])
        return mean, mean, mean
    bounds = bootstrap(
        (difference,), np.mean, n_resamples=2000, method="percentile", rng=seed
    ).confidence_interval
    return float(difference.mean()), float(bounds.low), float(bounds.high)


def score_interval(outcomes: Outcomes) -> list[float] | None:
    """Wilson's 95 % score interval of a mean of outcomes; None of fewer than `FEW`.

    Where all are right it does not say that all always are, as a bootstrap would. Of averaged
    seeds, whose spread is smaller than that of one, it is rather too wide.
    """
    n, mean, z = len(outcomes), float(outcomes.mean()) if len(outcomes) else 0.0, 1.959964
    if n < FEW:
        return None
    middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def relative(accuracy: float, full: float, blind: float) -> tuple[float | None, float | None]:
    """Accuracy as a share of the unpruned model's: plain, and of what the picture adds."""
    plain = accuracy / full if full else None
    above = (accuracy - blind) / (full - blind) if full > blind else None
    return plain, above


def yes_no_f1(said: list[str], answers: list[str]) -> float | None:
    """F1 of "yes" over questions answered by yes or no, as POPE has it; None: there are none."""
    pairs = [
        (_plain(s) == "yes", _plain(a) == "yes")
        for s, a in zip(said, answers, strict=True)
        if _plain(a) in ("yes", "no")
    ]
    if not pairs:
        return None
    hits = sum(s and a for s, a in pairs)
    wrong = sum(s != a for s, a in pairs)
    return 2 * hits / (2 * hits + wrong) if hits + wrong else None
