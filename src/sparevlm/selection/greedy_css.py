"""Greedy column subset selection: the token that explains the most, again and again."""

import torch
from torch import Tensor

from .checks import check_features, check_k, scaled_rows, working_dtype
from .greedy import Gain, greedy_order
from .pivoting import fill_up
from .result import Selection, as_selection


@torch.no_grad()
def greedy_css(features: Tensor, k: int) -> Selection:
    """Pick k tokens, each the one that lowers the reconstruction error the most.

    With R the residual rows, a step keeps argmax_j |R r_j|^2 / |r_j|^2. Costlier than `select`
    (a Gram matrix of the residuals, rewritten at every step) and meant to compare it with. Works in
    fp64.

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


def _greedy(image: Tensor, k: int, name: str) -> tuple[Tensor, Tensor]:
    rows, norms = scaled_rows(image, torch.float64, name)
    gain = _Explained(rows, k)
    pivots, left = greedy_order(gain, k), gain.left
    rank = torch.full((1, 1), len(pivots), device=rows.device)
    order = torch.nn.functional.pad(pivots, (0, k - len(pivots)))
    order = fill_up(order[None], rank, norms[None])[0]
    return order, left / torch.where(left[0] > 0, left[0], 1)
