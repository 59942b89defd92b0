"""Pivoted selection in stages: what rounding has blurred is computed anew and compared again.

Downdating a squared residual leaves an error of some roundings of what it began with. Once the
largest that are left have fallen so far that this would show, what is left of every token is
computed anew in float64 (`deeper`), and another run goes on from there, as LAPACK's geqp3 computes
norms anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .result import fill_up


@dataclass(frozen=True)
class Bounds:
    """What a run may still compare.

    Attributes
    ----------
    near : float
        Values of at least `near` times the largest are ties.
    trust : float
        A value is exact enough down to `trust` times the largest that a token began with which is
        not kept yet.
    floor : sequence of float
        Of every image: below this share of the largest initial value nothing is left to explain.
    """

    near: float
    trust: float
    floor: Sequence[float]


def trusted(dtype: torch.dtype) -> float:
    """`Bounds.trust`: rounding is then a thousandth of the value, less than values lie apart."""
    return 10 * float(torch.finfo(dtype).eps) ** 0.5


def exhausted(n: int, dtype: torch.dtype) -> float:
    """`Bounds.floor` of N tokens: what rounding of the features alone may leave, times some."""
    return n * float(torch.finfo(dtype).eps) ** 2


class Run(Protocol):
    """A pivoted selection over images in step, which can stop and go on.

    Attributes
    ----------
    norms : Tensor [B, N]
        Weighted norms.
    """

    norms: Tensor

    @property
    def steps(self) -> int:
        """Tokens that every image has picked, unless it stopped for itself."""

    def advance(self, stop: int, tol: float | Tensor) -> None:
        """Pick until there are ``stop``, or a relative residual <= ``tol`` > 0 ([B] or one)."""

    def look(self) -> tuple[list[int], bool]:
        """What a device must be waited for.

        Images that stopped since their values can't be told apart, though some is left; and
        whether none stopped for itself.
        """

    def picks(self, steps: int) -> tuple[Tensor, Tensor]:
        """Order [B, steps], int64, and how much of each stands [B, 1]."""

    def residual(self, steps: int) -> Tensor:
        """Relative residual [B, steps + 1]."""

    def release(self) -> None:
        """Drop what only further steps need."""


@dataclass(frozen=True)
class Deeper:
    """What goes on where images had to stop.

    Attributes
    ----------
    stages : Stages
        Over these images.
    shares : list of float
        Of the energy of each, how much was left.
    """

    stages: Stages
    shares: list[float]


Deepen = Callable[[list[int], list[Tensor], list[int]], Deeper]


class Stages:
    """A run, and those that go on where it had to stop.

    Parameters
    ----------
    run : Run
        Over images [B].
    ks : list of int
        How many tokens of each image at most.
    deepen : callable
        ``deepen(places, kept, left)``: what goes on with some images, given what was kept of each
        [c], and how many tokens are left to pick.
    """

    def __init__(self, run: Run, ks: list[int], deepen: Deepen) -> None:
        self._run, self._ks, self._deepen = run, ks, deepen
        self._asked: tuple[int, float | Tensor] = (0, 0.0)
        self._later: list[_Later] = []
        self.full = False

    def advance(self, stop: int, tol: float | Tensor) -> None:
        """See `Run`; images that stop go on in `settle`."""
        self._asked = stop, tol
        self._run.advance(stop, tol)
        for later in self._later:
            later.advance(stop, tol)

    def settle(self) -> None:
        """Let images go on that had to stop; all that waits for a device waits here."""
        known = {b for later in self._later for b in later.places}
        deep, self.full = self._run.look()
        places = [b for b in deep if b not in known]
        if places:
            order, ranks = self._run.picks(self._run.steps)
            counts = ranks[places, 0].tolist()
            kept = [order[b, :c] for b, c in zip(places, counts, strict=True)]
            left = [self._ks[b] - c for b, c in zip(places, counts, strict=True)]
            deeper = self._deepen(places, kept, left)
            self._later.append(_Later(places, counts, deeper.shares, deeper.stages))
            self._later[-1].advance(*self._asked)
        for later in self._later:
            later.stages.settle()

    @property
    def steps(self) -> int:
        """How many tokens some image needs so far."""
        gone = sum(len(later.places) for later in self._later)
        needed = [later.steps for later in self._later]
        return max(needed + ([self._run.steps] if gone < len(self._ks) else []))

    def picks(self, steps: int) -> tuple[Tensor, Tensor]:
        """See `Run`."""
        order, rank = self._run.picks(steps)
        for later in self._later:
            later.join(steps, order, rank)
        return order, rank

    def order(self, steps: int) -> Tensor:
        """Order [B, steps], filled up by weighted norm from where nothing was left to explain."""
        order, rank = self.picks(steps)
        return order if self.full else fill_up(order, rank, self._run.norms)

    def residual(self, steps: int) -> Tensor:
        """See `Run`; never increasing."""
        residual = self._run.residual(steps)
        for later in self._later:
            later.join_residual(steps, residual)
        return residual.cummin(1).values if self._later else residual

    def release(self) -> None:
        """See `Run`."""
        self._run.release()


@dataclass(frozen=True)
class _Later:
    """Images that went on: their places, tokens kept before, energy left then, and the stages."""

    places: list[int]
    counts: list[int]
    shares: list[float]
    stages: Stages

    def advance(self, stop: int, tol: float | Tensor) -> None:
        if isinstance(tol, Tensor):
            tol = tol[self.places]
        elif tol == 0:
            self.stages.advance(stop - min(self.counts), 0.0)
            return
        shares = torch.tensor(self.shares, dtype=torch.float64)
        self.stages.advance(stop - min(self.counts), tol / shares)

    @property
    def steps(self) -> int:
        return max(self.counts) + self.stages.steps

    def join(self, steps: int, order: Tensor, rank: Tensor) -> None:
        mine, stand = self.stages.picks(max(0, steps - min(self.counts)))
        for i, (b, c) in enumerate(zip(self.places, self.counts, strict=True)):
            if steps > c:
                order[b, c : c + mine.shape[1]] = mine[i, : steps - c]
                rank[b] = c + stand[i]

    def join_residual(self, steps: int, residual: Tensor) -> None:
        mine = self.stages.residual(max(0, steps - min(self.counts)))
        for i, (b, c, share) in enumerate(zip(self.places, self.counts, self.shares, strict=True)):
            if steps >= c:
                residual[b, c : c + mine.shape[1]] = mine[i, : steps - c + 1] * share
