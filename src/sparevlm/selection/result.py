"""What a selection gives back."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Selection:
    """Tokens in the order they were picked, and what they leave unexplained.

    Attributes
    ----------
    order : Tensor [k] or [B, k], int64
        Token indices in the order picked; ``order[..., :j]`` is the selection for every ``j <= k``.
    residual : Tensor [k + 1] or [B, k + 1], float32 (float64 for float64 features)
        ``residual[..., t]`` is the share of the (weighted) squared feature energy that the first
        ``t`` tokens leave unexplained: 1 at first, never increasing; 0 throughout when the energy
        is zero.
    count : Tensor [] or [B], int64
        How many leading entries of ``order`` bring the residual down to ``tol``; k where ``tol`` is
        0 or was not reached; at least 1.
    """

    order: Tensor
    residual: Tensor
    count: Tensor


def as_selection(order: Tensor, residual: Tensor, tol: float) -> Selection:
    """Count the tokens that ``tol`` needs, and drop what no image of the batch needs."""
    k = order.shape[-1]
    if tol == 0:
        count = torch.full(order.shape[:-1], k, dtype=torch.int64, device=order.device)
        return Selection(order, residual, count)
    count = ((residual[..., 1:] > tol).sum(-1) + 1).clamp_(max=k)
    k = int(count.max())
    # A copy, so that the buffers for all N tokens are not kept alive by the few that stay.
    return Selection(order[..., :k].clone(), residual[..., : k + 1].clone(), count)


def fill_up(order: Tensor, rank: Tensor, norms: Tensor) -> Tensor:
    """Replace all but the first ``rank`` entries of each order by the largest norms not yet kept.

    Parameters
    ----------
    order : Tensor [B, k], int64
        Tokens in the order kept.
    rank : Tensor [B, 1], int64
        How many leading entries stand.
    norms : Tensor [B, N]
        What the rest is ordered by, largest first; ties go to the lowest index.
    """
    total, n = norms.shape
    step = torch.arange(order.shape[1], device=order.device)
    stands = step < rank
    # One more column takes the writes of the entries that do not stand.
    key = torch.cat((norms, norms.new_zeros(total, 1)), dim=1)
    key.scatter_(1, torch.where(stands, order, n), -1)
    rest = key[:, :n].argsort(dim=1, descending=True, stable=True)
    return torch.where(stands, order, rest.gather(1, (step - rank).clamp(min=0)))
