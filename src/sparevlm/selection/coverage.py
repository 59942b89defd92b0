"""Maximum coverage: the token that lifts the others' best similarity most, again and again."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_k
from .greedy import Gain, greedy_order, in_one_launch

_BLOCK = 32  # tokens whose gain is computed at once


class _Coverage(Gain):
    """Value: factor_j * sum_i weight_i max(0, S_ij - best_i).

    Gains can only fall (the sum is submodular), so what is not the maximum by its old value need
    not be computed anew: Minoux's lazy greedy, in blocks.
    """

    def __init__(self, similarity: Tensor, weights: Tensor, factor: Tensor, start: float) -> None:
        self.columns = similarity.T.contiguous()  # [N, M]
        self._weights, self._factor = weights, factor
        self._best = similarity.new_full((similarity.shape[0],), start)
        self._fresh = torch.zeros(len(factor), dtype=torch.bool, device=factor.device)
        # Two tokens that cover each other alike tie, but for the rounding of the sums.
        self.near = 1 - 64 * torch.finfo(similarity.dtype).eps
        self.value = self._gain(slice(None))
        self._fresh.fill_(True)

    def _gain(self, tokens: Tensor | slice) -> Tensor:
        lift = (self.columns[tokens] - self._best).clamp_(min=0)
        return self._factor[tokens] * (lift @ self._weights)

    def refresh(self, left: int) -> None:
        while True:
            best = self.value.amax()
            stale = (~self._fresh & (self.value >= best * self.near)).any()
            if not bool(stale):
                return
            bounds = torch.where(self._fresh, -torch.inf, self.value)
            block = bounds.topk(min(_BLOCK, len(bounds))).indices
            block = block[~self._fresh[block]]
            # Rounding must not lift a gain above its old bound.
            self.value[block] = torch.minimum(self._gain(block), self.value[block])
            self._fresh[block] = True

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        torch.maximum(self._best, self.columns[pick[0]], out=self._best)
        self.value.index_fill_(0, pick, -torch.inf)
        self._fresh.fill_(False)
        self._fresh.index_fill_(0, pick, True)


@torch.no_grad()
def max_coverage(
    similarity: Tensor,
    k: int,
    *,
    weights: Tensor | None = None,
    factor: Tensor | None = None,
    start: float = 0.0,
) -> Tensor:
    """Pick k tokens that together are similar to as many targets as possible, greedily.

    Maximises sum_i weights_i max_{j picked} S_ij; a step takes the largest
    factor_j sum_i weights_i max(0, S_ij - best_i).

    Parameters
    ----------
    similarity : Tensor [M, N], float
        Of M targets and N tokens.
    k : int
        How many to pick; ``k >= N`` picks all N.
    weights : Tensor [M], optional
        How much a target counts; not negative.
    factor : Tensor [N], optional
        What a token's gain is multiplied by; not negative.
    start : float
        Best similarity of every target before the first pick.

    Returns
    -------
    Tensor [k], int64
        Tokens in the order picked. Ties go to the lowest index.

    Notes
    -----
    In float32 on a GPU with Triton, up to 8192 targets and tokens, one launch makes all picks.

    References
    ----------
    Nemhauser, Wolsey and Fisher, An analysis of approximations for maximizing submodular set
    functions, Mathematical Programming 14, 1978; Minoux, Accelerated greedy algorithms, 1978.
    """
    targets, n = similarity.shape
    weights = similarity.new_ones(targets) if weights is None else weights
    factor = similarity.new_ones(n) if factor is None else factor
    k = min(check_k(k), n)
    gain = _Coverage(similarity, weights, factor, start)
    if in_one_launch(similarity, weights, factor):
        from sparevlm.kernels.greedy import covering  # imports Triton

        return covering(gain.columns, gain.value, factor, weights, k, start, gain.near)
    return greedy_order(gain, k)
