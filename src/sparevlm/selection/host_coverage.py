"""Maximum coverage on the host: all images of a batch in one loop."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .host_products import rows_at_once

_ROWS = 128  # targets whose similarities are looked at at once
Floats = NDArray[np.floating]
Ints = NDArray[np.int64]


class Source(Protocol):
    """Similarities of M targets and N tokens of B images."""

    def rows(self, images: Ints, targets: Ints) -> Floats:
        """Of some targets [m] of some images [m]: [m, N], which may be written to."""

    def column(self, pick: Ints) -> Floats:
        """Of all targets to a token of each image [B]: [B, M]."""


class Held:
    """Matrices [B, M, N]."""

    def __init__(self, matrices: Floats) -> None:
        self._matrices = matrices
        self._images = np.arange(len(matrices))

    def rows(self, images: Ints, targets: Ints) -> Floats:
        """See `Source`."""
        return self._matrices[images, targets]

    def column(self, pick: Ints) -> Floats:
        """See `Source`."""
        return self._matrices[self._images, :, pick]


def covering(
    similarity: Source, gains: Floats, weight: Floats, factor: Floats, reach: Floats, k: int,
    nothing: float, near: float,
) -> Ints:  # fmt: skip
    """Picks [k, B] of `max_coverage`.

    After t picks a new one is the best of one in t + 1 targets, so that what it changes of all
    gains is soon little: gains are downdated by those targets alone, in float64, in which what
    rounding leaves counts for nothing. Of each image one target is subtracted behind the other, so
    that its gains do not depend on its company.

    Parameters
    ----------
    similarity : Source
    gains : array [B, N], float64
        What each token covers by itself. It is changed.
    weight : array [B, M], float64
    factor : array [B, N]
        -inf for what cannot be picked.
    reach : array [B, M]
        Best similarity of every target so far. It is changed.
    k : int
        An image that has fewer tokens repeats some at the end.
    nothing : float
        Gains up to this share of a token's first one are what rounding leaves.
    near : float
        Gains of at least so many times the largest are ties.
    """
    images, at_once = np.arange(len(gains)), rows_at_once(gains.shape[1])
    least = gains * nothing
    gone = np.where(factor == -np.inf, factor, 0)  # -inf: picked
    factor = np.where(factor == -np.inf, 0, factor)
    order = np.zeros((k, len(gains)), np.int64)
    for t in range(k):
        value = np.where(gains > least, gains, 0) * factor + gone
        best = np.maximum.reduce(value, 1)
        pick = (value >= (best * near)[:, None]).argmax(1, out=order[t])
        gone[images, pick] = -np.inf
        if t == k - 1:
            break
        column = similarity.column(pick)
        image, target = np.nonzero(column > reach)
        old, new = reach[image, target][:, None], column[image, target][:, None]
        scales = weight[image, target]
        for run in _runs(image):
            some = slice(run[0], run[-1])
            rows = similarity.rows(image[some], target[some])
            np.maximum(rows, old[some], out=rows)
            np.minimum(rows, new[some], out=rows)
            # Less what it was, lest rounding of large reaches be left of small gains.
            wide = np.subtract(rows, old[some], dtype=np.float64)
            for first, last in pairwise(run):  # of one image each
                part, scale = wide[first - run[0] : last - run[0]], scales[first:last]
                for top in range(0, last - first, at_once):
                    some_rows = slice(top, top + at_once)
                    gains[image[first]] -= scale[some_rows] @ part[some_rows]
        np.maximum(reach, column, out=reach)
    return order


def _runs(image: Ints) -> Iterator[list[int]]:
    """Borders of images, and where one has too many rows of parts of it, in runs of `_ROWS` rows.

    `image` [m] ascends. Where a part ends does not depend on what other images have.
    """
    run = [0]
    for end in [*(np.flatnonzero(image[1:] != image[:-1]) + 1).tolist(), len(image)]:
        for border in [*range(run[-1] + _ROWS, end, _ROWS), end]:
            if border - run[0] > _ROWS and len(run) > 1:
                yield run
                run = run[-1:]
            if border > run[-1]:
                run.append(border)
    if len(run) > 1:
        yield run
