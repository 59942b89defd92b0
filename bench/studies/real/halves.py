"""Two halves of the photographs, and intervals that know how many of them are looked at."""

from __future__ import annotations

import numpy as np
from scipy.stats import bootstrap

SEED = 0
RESAMPLES = 50_000  # with 200 comparisons a tail of one interval still has six resamples


def halves(pictures: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the half that choices are made on, and of the one that is looked at once."""
    order = np.random.default_rng(SEED).permutation(pictures)
    middle = (pictures + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def interval(differences: np.ndarray, comparisons: int) -> tuple[float, float, float]:
    """Mean of one number a photograph, and its 95 % bootstrap interval, Bonferroni-corrected.

    Parameters
    ----------
    differences : float array [photographs]
    comparisons : int
        Of how many intervals this is one: each has 1 - 0.05 / comparisons.
    """
    mean = float(differences.mean())
    if np.all(differences == differences[0]):
        return mean, mean, mean
    bounds = bootstrap(
        (differences,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=SEED,
        confidence_level=1 - 0.05 / comparisons, batch=2000,
    ).confidence_interval  # fmt: skip
    return mean, float(bounds.low), float(bounds.high)


def said(differences: np.ndarray, comparisons: int, scale: float = 100) -> str:
    """`interval` in points, bold where it is clear of 0."""
    mean, low, high = (scale * value for value in interval(differences, comparisons))
    text = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
    return f"**{text}**" if low > 0 or high < 0 else text
