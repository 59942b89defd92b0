"""Pivoted selection on a device without Triton, or of what its kernels do not take."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .greedy import Gain, run_greedy
from .products import ColumnProducts, GramProducts, Products
from .stages import Bounds

_SYNC_EVERY = 16  # steps between two looks at a GPU's progress
_PAD = 32  # entries; rows of every image start alike, so that products round alike


class DeviceRun(Gain):
    """Greedy selection over a few images in step; can stop and go on.

    Products are taken image by image and everything else is elementwise or exact, so that an
    image's numbers do not depend on its company.

    Parameters
    ----------
    rows, weights, norms : lists of Tensor [N, D], [N] or None, [N]
        Of every image, as `HostRun` takes them, but of one N.
    k : int
        How many tokens of each image at most.
    gram : bool
        Whether to take the products of all pairs at once.
    bounds : Bounds
        What may still be compared.
    """

    def __init__(
        self, rows: list[Tensor], weights: list[Tensor | None], norms: list[Tensor], k: int,
        gram: bool, bounds: Bounds,
    ) -> None:  # fmt: skip
        dtype, device = rows[0].dtype, rows[0].device
        total, n = len(rows), len(rows[0])
        self.norms = torch.stack(norms)
        kind = GramProducts if gram else ColumnProducts
        self._products: Products | None = kind(rows, weights)
        # What a step maximises: the squared weighted residual norm of every token.
        self.value = self.norms.to(dtype).square()
        self._first = self.value.clone()
        largest = self.value.amax(-1, keepdim=True)
        self._trust, self._floor = bounds.trust, largest * bounds.floor[0]
        if len(set(bounds.floor)) > 1:  # else nothing need be copied from the host
            floor = torch.tensor(bounds.floor, dtype=dtype)[:, None]
            self._floor = floor.to(device) * largest
        self._bar = torch.maximum(bounds.trust * largest, self._floor)
        self._alive = torch.ones(total, 1, dtype=torch.bool, device=device)
        self.near = bounds.near
        self._never = torch.full((), math.inf, dtype=dtype, device=device)
        self._zero = torch.zeros((), dtype=dtype, device=device)
        self._order = torch.zeros(k, total, 1, dtype=torch.int64, device=device)
        self._rank = torch.zeros(total, 1, dtype=torch.int64, device=device)
        self._energy = self.value.new_zeros(k + 1, total)
        width = math.ceil(n / _PAD) * _PAD
        self._factor: Tensor | None = self.value.new_empty(total, k, width)[..., :n]
        self._pivot_row = self.value.new_empty(total, math.ceil(k / _PAD) * _PAD)
        self._sync_every = 1 if device.type == "cpu" else _SYNC_EVERY
        self._sum_energy(0)
        self.steps, self._k, self._exhausted = 0, k, False
        self._tol: Tensor | None = None

    def advance(self, stop: int, tol: float | Tensor) -> None:
        """See `Run`."""
        plain = isinstance(tol, float) and tol == 0
        self._tol = None if plain else torch.as_tensor(tol).to(self.value)
        self.steps = run_greedy(self, self._order, self.steps, stop)
        if self._exhausted:  # `order` fills up
            self._energy[self.steps + 1 : stop + 1] = self._energy[self.steps]
            self.steps = stop

    def finished(self, t: int, best: Tensor) -> bool:
        """See `Gain`: the tolerance is reached, or nothing is left to explain."""
        if t == 0 or t % self._sync_every:
            return False
        # What was picked no longer decides how exact values are.
        first = torch.where(self.value > 0, self._first, 0).amax(-1, keepdim=True)
        self._bar = torch.maximum(self._trust * first, self._floor)
        self._alive = alive = self._alive & (best > self._bar)
        if self._tol is not None:
            reached = (self._relative(t) <= self._tol)[:, None]
            if bool((reached | (~alive & (best > self._floor))).all()):
                return True
        self._exhausted = not bool(alive.any())
        return self._exhausted

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        """See `Gain`: one row of the Cholesky factor, and the norms downdated with it."""
        gain, factor, products = self.value, self._factor, self._products
        assert factor is not None and products is not None
        self._alive = alive = self._alive & (best > self._bar)
        value = gain.gather(-1, pick)
        past, new, pivot_row = factor[:, :t], factor[:, t], self._pivot_row[:, :t]
        for b, out in enumerate(new.unbind(0)):
            products.write(b, pick[b], out)
            if t > 0:
                seen = past[b]
                torch.index_select(seen, 1, pick[b], out=pivot_row[b, :, None])
                torch.addmv(out, seen.T, pivot_row[b], alpha=-1, out=out)
        # Exhausted images divide by infinity and stay as they are.
        new.div_(torch.where(alive, value.sqrt(), self._never))
        gain.addcmul_(new, new, value=-1).clamp_(min=0)
        gain.scatter_(-1, pick, torch.where(alive, self._zero, value))
        self._rank.add_(alive)
        self._sum_energy(t + 1)

    def _sum_energy(self, t: int) -> None:
        for gain, out in zip(self.value.unbind(0), self._energy[t].unbind(0), strict=True):
            torch.sum(gain, 0, out=out)

    def _relative(self, t: int | slice) -> Tensor:
        initial = self._energy[0]
        return self._energy[t] / torch.where(initial > 0, initial, 1)

    def release(self) -> None:
        """Drop what only further steps need."""
        self._factor = self._products = None

    def look(self) -> tuple[list[int], bool]:
        """See `Run`."""
        left = self.value.amax(-1, keepdim=True)
        deep = ~self._alive & (left > self._floor) & (self._rank < self._k)
        state = torch.cat((deep[:, 0], (self._rank < self.steps)[:, 0])).tolist()
        total = len(state) // 2
        return [b for b in range(total) if state[b]], not any(state[total:])

    def residual(self, steps: int) -> Tensor:
        """See `Run`."""
        return self._relative(slice(0, steps + 1)).T.contiguous()

    def picks(self, steps: int) -> tuple[Tensor, Tensor]:
        """See `Run`."""
        return self._order[:steps, :, 0].T.contiguous(), self._rank.clone()
