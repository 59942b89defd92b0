"""The slow way: explicit residual rows, and least squares afresh, in fp64."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray


def literal_selection(
    x: ArrayLike, k: int, weights: ArrayLike | None = None
) -> tuple[list[int], list[float]]:
    """Order and relative residual; for k up to the rank, and data without ties."""
    rows = np.asarray(x, dtype=np.float64)
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = (w[:, None] ** 2 * rows**2).sum()
    kept: list[int] = []
    residual = [1.0]
    for _ in range(k):
        value = w**2 * (rows**2).sum(axis=1)
        value[kept] = -1
        kept.append(int(value.argmax()))
        direction = rows[kept[-1]] / np.linalg.norm(rows[kept[-1]])
        for _ in range(2):  # the second pass removes what rounding left of the first
            rows = rows - np.outer(rows @ direction, direction)
        residual.append(float((w[:, None] ** 2 * rows**2).sum() / total))
    return kept, residual


def least_squares_error(x: ArrayLike, kept: list[int], weights: ArrayLike | None = None) -> float:
    """Relative weighted error of rebuilding all rows from the kept ones."""
    rows = np.asarray(x, dtype=np.float64)
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    rest = rows
    if kept:
        factors = np.linalg.lstsq(rows[kept].T, rows.T, rcond=None)[0]
        rest = rows - factors.T @ rows[kept]
    return float(((w[:, None] * rest) ** 2).sum() / ((w[:, None] * rows) ** 2).sum())


def literal_greedy_css(x: ArrayLike, k: int) -> tuple[list[int], list[float]]:
    """Order and relative residual: every remaining row is tried, and the best one stays."""
    rows = np.asarray(x, dtype=np.float64)
    kept: list[int] = []
    residual = [1.0]
    for _ in range(k):
        error = {
            j: least_squares_error(rows, [*kept, j]) for j in range(len(rows)) if j not in kept
        }
        kept.append(min(error, key=error.__getitem__))
        residual.append(error[kept[-1]])
    return kept, residual


class ExactRows:
    """Squared residual norms of integer rows in rational arithmetic, free of rounding."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self.rows = [[Fraction(int(entry)) for entry in row] for row in rows]

    def values(self) -> list[Fraction]:
        """Squared residual norm of each row."""
        return [sum((entry * entry for entry in row), Fraction()) for row in self.rows]

    def keep(self, pick: int) -> None:
        """Project the pick out of all rows."""
        direction = self.rows[pick]
        size = sum((entry * entry for entry in direction), Fraction())
        for i, row in enumerate(self.rows):
            part = sum((a * b for a, b in zip(row, direction, strict=True)), Fraction()) / size
            self.rows[i] = [a - part * b for a, b in zip(row, direction, strict=True)]
