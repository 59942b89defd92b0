"""The whole greedy loop of pivoted selection in one launch, one program an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gram import BAD, scaled_gram
from .loop import launch_shape, lowest

DEEP, EXHAUSTED, REFUSED = tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)


class PivotedRun:
    """Pivoted selection over a batch on the GPU, which can stop and go on.

    What it computes is told at `sparevlm.selection.select`. Two launches give the Gram matrices,
    one runs all steps; the host waits for none of them.

    Attributes
    ----------
    norms : Tensor [B, N], float64
        Weighted norms.
    state : Tensor [B], int32
        0, or why an image stopped for itself: `DEEP` (something is left) or `EXHAUSTED`; `REFUSED`
        where features held NaN or infinity.

    Parameters
    ----------
    images : Tensor [B, N, D], bf16, fp16 or fp32
        Rows with NaN or infinity count as zero rows; see `bad`.
    weights : Tensor [B, N], float64, optional
        Finite and not negative.
    k : int
        How many tokens may be picked in all, at most N.
    near : float
        Values of at least ``near`` times the largest are ties.
    trust : float
        An image stops once no value is above ``trust`` times the largest that a token began with
        which is not picked yet.
    floor : sequence of float [B]
        Or above this share of the largest that any began with: then nothing is left.
    """

    def __init__(
        self, images: Tensor, weights: Tensor | None, k: int, near: float, trust: float,
        floor: Sequence[float],
    ) -> None:  # fmt: skip
        self._gram, self._exponent, norm = scaled_gram(images)
        total, n = norm.shape
        if weights is not None:  # the largest brought to about 1, lest products leave the range
            largest = weights.amax(-1, keepdim=True)
            weights = torch.ldexp(weights, -torch.frexp(largest).exponent)
            norm = norm * weights
        self.norms, self._weights = norm, weights
        self._near, self._trust, self._floor = near, trust, floor
        self._floors: Tensor | None = None  # on the device, where they differ
        if len(set(floor)) > 1:
            self._floors = norm.new_tensor(floor, dtype=torch.float32)
        self._value = self._gram.new_empty(total, n)
        self._factor = self._gram.new_empty(total, k, n)
        self._energy = self._gram.new_zeros(total, k + 1)
        self._order = norm.new_zeros(total, k, dtype=torch.int64)
        self._done = norm.new_zeros(total, dtype=torch.int32)
        self.state = norm.new_zeros(total, dtype=torch.int32)

    def advance(self, stop: int, tol: float | Tensor = 0.0) -> None:
        """Pick until every image has ``stop`` tokens, or a relative residual <= ``tol`` > 0.

        tol may be one for each image [B].
        """
        total, k, n = self._factor.shape
        shape = launch_shape(n)
        weights = self.norms if self._weights is None else self._weights
        tols = tol.to(weights.device, torch.float32) if isinstance(tol, Tensor) else None
        _pivot[(total,)](
            self._gram, self._exponent, self.norms, weights, self._value, self._factor,
            self._energy, self._order, self._done, self.state,
            weights if self._floors is None else self._floors, weights if tols is None else tols,
            n, k, stop, 0.0 if tols is not None else float(tol), self._floor[0], self._trust,
            self._near, self._weights is not None, self._floors is not None, tols is not None,
            shape.block, shape.rows, num_warps=shape.warps,
        )  # fmt: skip

    def bad(self) -> Tensor:
        """Rows with NaN or infinity: [B, N], bool."""
        return self._exponent == BAD.value

    @property
    def done(self) -> Tensor:
        """How many tokens every image has picked: [B], int32."""
        return self._done

    def picks(self, steps: int) -> tuple[Tensor, Tensor]:
        """Tokens in the order picked [B, steps], int64, and how many of them stand [B, 1]."""
        return self._order[:, :steps].contiguous(), self._done[:, None].long()

    def residual(self, steps: int) -> Tensor:
        """Relative residual [B, steps + 1], float32; flat from where an image stopped."""
        first = self._energy[:, :1]
        return self._energy[:, : steps + 1] / torch.where(first > 0, first, 1)

    def release(self) -> None:
        """Drop what only further steps need."""
        del self._gram, self._factor, self._value


@triton.jit
def _pivot(
    gram, exponent, size, weights, values, factors, energies, orders, done, states, floors, tols,
    n, k, stop, tol, rank_floor, trust, near, WEIGHTED: tl.constexpr, FLOORS: tl.constexpr,
    TOLS: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Arrays of [B, N] but gram [B, N, N], factors [B, k, N], energies [B, k + 1], orders [B, k].

    size is the (weighted) norm of every row; values keep the state between launches.
    """
    image = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < n
    for_image = image * n
    gram += image * n * n
    factor = factors + image * k * n
    energy = energies + image * (k + 1)
    order = orders + image * k

    # The scale that brings the largest norm to about 1 is a power of two, and changes no selection.
    norm = tl.load(size + for_image + columns, mask=inside, other=0.0)
    largest = tl.max(norm, 0)
    exponents = (largest.to(tl.int64, bitcast=True) >> 52) - 1023
    exponents = tl.where(largest == 0, 0, exponents)
    scale = ((1023 - exponents) << 52).to(tl.float64, bitcast=True)
    norm = norm * scale
    # What a row of the Gram matrix is to be multiplied by: weight, and the row's own scale.
    power = tl.load(exponent + for_image + columns, mask=inside, other=0)
    refused = tl.max((power == BAD).to(tl.int32), 0)
    power = tl.where(power == BAD, 0, power)
    lift = ((power.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)
    if WEIGHTED:
        lift = lift * tl.load(weights + for_image + columns, mask=inside, other=0.0)
    lift = tl.where(norm > 0, lift * scale, 0.0).to(tl.float32)

    initial = norm.to(tl.float32) * norm.to(tl.float32)
    if FLOORS:
        rank_floor = tl.load(floors + image)
    if TOLS:
        tol = tl.load(tols + image)
    floor = tl.max(initial, 0) * rank_floor
    bar = tl.maximum(tl.max(initial, 0) * trust, floor)
    total = tl.sum(initial, 0)
    t = tl.load(done + image)
    if t == 0:
        value = tl.where(inside, initial, -1.0)
        tl.store(energy, total)
    else:
        value = tl.load(values + for_image + columns, mask=inside, other=-1.0)
    rest = tl.sum(tl.where(inside, value, 0.0), 0)

    # At least one token, as long as the tolerance is not reached.
    going = t < stop
    state = 0
    while going:
        best = tl.max(value, 0)
        if best <= bar:  # what was picked no longer decides how exact values are
            again = tl.load(size + for_image + columns, mask=inside, other=0.0) * scale
            first = tl.where(value > 0, again.to(tl.float32), 0.0)
            bar = tl.maximum(tl.max(first * first, 0) * trust, floor)
        going = best > bar
        state = tl.where(going, 0, tl.where(best > floor, DEEP, EXHAUSTED))
        if going:
            pick = lowest(value, best * near, columns, BLOCK)
            chosen = columns == pick
            own = tl.sum(tl.where(chosen, value, 0.0), 0)
            row = tl.load(gram + pick.to(tl.int64) * n + columns, mask=inside, other=0.0)
            row = row * lift * tl.sum(tl.where(chosen, lift, 0.0), 0)
            seen = tl.zeros((BLOCK,), tl.float32)
            for first_row in range(0, t, ROWS):
                steps = first_row + tl.arange(0, ROWS)
                past = tl.load(
                    factor + steps[:, None] * n + columns[None, :],
                    mask=(steps < t)[:, None] & inside[None, :], other=0.0,
                )  # fmt: skip
                mine = tl.load(factor + steps * n + pick, mask=steps < t, other=0.0)
                seen += tl.sum(past * mine[:, None], 0)
            row = (row - seen) / tl.sqrt(own)
            tl.store(factor + t * n + columns, row, mask=inside)
            value = tl.where(inside, tl.maximum(value - row * row, 0.0), -1.0)
            value = tl.where(chosen, 0.0, value)
            rest = tl.sum(tl.where(inside, value, 0.0), 0)
            tl.debug_barrier()  # other threads of this program read the row in the next step
            tl.store(order + t, pick.to(tl.int64))
            t += 1
            tl.store(energy + t, rest)
            going = (t < stop) & ((tol <= 0) | (rest > tol * total))
    tl.store(states + image, tl.where(refused > 0, REFUSED, state))
    for later in range(t + 1, stop + 1):
        tl.store(energy + later, rest)
    tl.store(values + for_image + columns, value, mask=inside)
    tl.debug_barrier()
    tl.store(done + image, t)
