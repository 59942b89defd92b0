"""Greedy column subset selection: the token that explains the most, again and again."""

import torch
from torch import Tensor

from . import rows as many
from .checks import check_features, check_k, scaled_rows, working_dtype
from .greedy import Gain, greedy_order
from .result import Selection, as_selection, fill_up
from .rows import blocks

_USED_UP = 1e-6  # of the largest |R r_j|^2, to which downdating is trusted


@torch.no_grad()
def greedy_css(features: Tensor, k: int) -> Selection:
    """Pick k tokens, each the one that lowers the reconstruction error the most.

    With R the residual rows, a step keeps argmax_j |R r_j|^2 / |r_j|^2. Costlier than `select` and
    meant to compare it with. Works in fp64. Up to 2048 tokens (`rows.LARGE`) the Gram matrix of the
    residuals is held, and rewritten at every step; beyond, |R r_j|^2 is downdated as in the paper,
    in O(N k) memory, and computed anew from residuals where rounding has used it up. Either way the
    time grows with N^2 D at least.

    Parameters
    ----------
    features : Tensor [N, D] or [B, N, D], bf16, fp16, fp32 or fp64
        One row a token.
    k : int
        How many tokens to keep; ``k >= N`` keeps all N.

    Returns
    -------
    Selection
        As from `select` without weights and with ``tol`` 0; ties and numerically low rank are
        treated alike.

    Raises
    ------
    TypeError
        If features are no tensor of a floating-point dtype.
    ValueError
        If a shape does not fit, k is no positive integer, or features hold NaN or infinity.

    References
    ----------
    Farahat, Ghodsi and Kamel, An efficient greedy method for unsupervised feature selection,
    ICDM 2011.
    """
    check_features(features)
    k = min(check_k(k), features.shape[-2])
    dtype = working_dtype(features)
    with torch.autocast(features.device.type, enabled=False):
        if features.ndim == 2:
            order, residual = _greedy(features, k, "row")
        else:
            selections = [_greedy(image, k, f"image {b}, row") for b, image in enumerate(features)]
            order, residual = (torch.stack(parts) for parts in zip(*selections, strict=True))
    return as_selection(order, residual.to(dtype), 0.0)


class _Explained(Gain):
    """Value: |R r_j|^2 / |r_j|^2, how much of the energy a pick of j takes away."""

    def __init__(self, rows: Tensor, k: int) -> None:
        eps = torch.finfo(torch.float64).eps
        # Of the residual rows. Downdating |R r_j|^2 instead, as the paper does, is cheaper but
        # loses it to rounding once |r_j|^2 has fallen by 1e8.
        self._gram = rows @ rows.T
        self._energy = self._gram.diagonal()  # |r_j|^2, a view
        self._floor = eps * len(rows) * self._energy.max()
        self.near = 1 - 4 * eps
        self.left = self._energy.sum().repeat(k + 1)
        self._measure()

    def _measure(self) -> None:
        free = self._energy > self._floor
        gain = torch.linalg.vector_norm(self._gram, dim=1).square()
        # Below the floor the quotient is noise.
        self.value = torch.where(free, gain / torch.where(free, self._energy, 1), -torch.inf)

    def finished(self, t: int, best: Tensor) -> bool:
        """See `Gain`: nothing is left to explain."""
        return bool(best.isinf())

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        """See `Gain`: project the pick out of all residuals."""
        new = self._gram[pick[0]] / self._energy[pick[0]].sqrt()
        self._gram.addr_(new, new, alpha=-1)
        self._energy[pick[0]] = 0
        self.left[t + 1 :] = self._energy.clamp(min=0).sum()
        self._measure()


class _Downdated(Gain):
    """The same value without the Gram matrix: |R r_j|^2 and |r_j|^2 are downdated (Farahat)."""

    def __init__(self, rows: Tensor, k: int) -> None:
        self.near = 1 - 4 * torch.finfo(torch.float64).eps
        self._k = k
        energy = rows.square().sum(1)
        self._floor = torch.finfo(torch.float64).eps * len(rows) * energy.max()
        self.left = energy.sum().repeat(k + 1)
        self._picked = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        self._begin(rows)

    def _begin(self, rows: Tensor) -> None:
        """From residual rows [N, D] on, exactly."""
        self._rows, self._since = rows, torch.zeros_like(self._picked)
        self._new = rows.new_zeros(len(rows), self._k)  # columns of the residuals' factor
        self._count = 0
        self._energy = rows.square().sum(1).masked_fill(self._picked, 0)
        gains = [(rows[some] @ rows.T).square().sum(1) for some in blocks(len(rows))]
        self._gain = torch.cat(gains)
        self._lowest = self._gain.max() * _USED_UP
        self._measure()

    def _measure(self) -> None:
        free = self._energy > self._floor
        value = self._gain.clamp(min=0) / torch.where(free, self._energy, 1)
        self.value = torch.where(free, value, -torch.inf)

    def finished(self, t: int, best: Tensor) -> bool:
        """See `Gain`: nothing is left to explain."""
        return bool(best.isinf())

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        """See `Gain`: project the pick out of all residuals."""
        p, before = int(pick[0]), self._new[:, : self._count]
        column = self._rows @ self._rows[p] - before @ before[p]
        new = column / column[p].clamp(min=self._floor).sqrt()
        along = self._rows @ (self._rows.T @ new) - before @ (before.T @ new)
        self._gain += new * (new * new.square().sum() - 2 * along)
        self._energy -= new.square()
        self._picked[p] = self._since[p] = True
        self._energy[self._picked] = 0
        self._new[:, self._count] = new
        self._count += 1
        self.left[t + 1 :] = self._energy.clamp(min=0).sum()
        if bool(self._gain.masked_fill(self._picked, 0).max() < self._lowest):
            self._begin(self._residuals())
        else:
            self._measure()

    def _residuals(self) -> Tensor:
        picked = self._rows[self._since]
        basis = torch.linalg.qr(picked.T).Q
        once = self._rows - (self._rows @ basis) @ basis.T
        return once - (once @ basis) @ basis.T  # twice is enough


def _greedy(image: Tensor, k: int, name: str) -> tuple[Tensor, Tensor]:
    rows, norms = scaled_rows(image, torch.float64, name)
    gain = _Downdated(rows, k) if len(rows) > many.LARGE else _Explained(rows, k)
    pivots, left = greedy_order(gain, k), gain.left
    rank = torch.full((1, 1), len(pivots), device=rows.device)
    order = torch.nn.functional.pad(pivots, (0, k - len(pivots)))
    order = fill_up(order[None], rank, norms[None])[0]
    return order, left / torch.where(left[0] > 0, left[0], 1)
