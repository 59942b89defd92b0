"""Maximum coverage: the token that lifts the others' best similarity most, again and again."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .checks import check_k
from .greedy import Gain, greedy_order, in_one_launch, too_many_pairs
from .rows import blocks

_BLOCK = 32  # tokens whose gain is computed at once


class Similarity(Protocol):
    """Of M targets and N tokens, where the matrix of them is too large to be held."""

    shape: tuple[int, int]

    def new_ones(self, n: int) -> Tensor:
        """Ones [n] in their dtype."""

    def columns(self, tokens: Tensor | slice) -> Tensor:
        """Similarities of some tokens: [n, M], float."""


class _Held:
    """A matrix [M, N]."""

    def __init__(self, matrix: Tensor) -> None:
        self.transposed = matrix.T.contiguous()

    def columns(self, tokens: Tensor | slice) -> Tensor:
        return self.transposed[tokens]


class _Coverage(Gain):
    """Value: factor_j * sum_i weight_i max(0, S_ij - best_i).

    Gains can only fall (the sum is submodular), so what is not the maximum by its old value need
    not be computed anew: Minoux's lazy greedy, in blocks.
    """

    def __init__(
        self, similarity: _Held | Similarity, weights: Tensor, factor: Tensor, start: float
    ) -> None:
        self._columns = similarity.columns
        self._weights, self._factor = weights, factor
        self._best = torch.full_like(weights, start)
        self._fresh = torch.zeros(len(factor), dtype=torch.bool, device=factor.device)
        # Two tokens that cover each other alike tie, but for the rounding of the sums.
        self.near = 1 - 64 * torch.finfo(weights.dtype).eps
        if isinstance(similarity, _Held):
            self.value = self._gain(slice(None))
        else:
            self.value = torch.cat([self._gain(some) for some in blocks(len(factor))])
        self._fresh.fill_(True)

    def _gain(self, tokens: Tensor | slice) -> Tensor:
        lift = (self._columns(tokens) - self._best).clamp_(min=0)
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
        torch.maximum(self._best, self._columns(pick)[0], out=self._best)
        self.value.index_fill_(0, pick, -torch.inf)
        self._fresh.fill_(False)
        self._fresh.index_fill_(0, pick, True)


class _Cosines:
    """What `cosines` gives where it is made when it is needed."""

    def __init__(self, unit: Tensor, temperature: float | None, above: Tensor | None) -> None:
        n = len(unit)
        self.shape = (n + (0 if above is None else len(above)), n)
        self.new_ones = unit.new_ones
        self._unit, self._temperature, self._above = unit, temperature, above
        self._totals: Tensor | None = None
        if temperature is not None:
            parts = [(unit[some] @ unit.T / temperature).logsumexp(1) for some in blocks(n)]
            self._totals = torch.cat(parts)

    def columns(self, tokens: Tensor | slice) -> Tensor:
        """See `Similarity`."""
        alike = self._unit[tokens] @ self._unit.T
        if self._totals is not None and self._temperature is not None:
            alike = alike.div_(self._temperature).sub_(self._totals).exp_()
        return alike if self._above is None else torch.cat([self._above[:, tokens].T, alike], 1)


def cosines(
    unit: Tensor, temperature: float | None = None, above: Tensor | None = None
) -> Tensor | Similarity:
    """Cosines of all pairs of rows, for `max_coverage`.

    Parameters
    ----------
    unit : Tensor [N, D], float
        Rows of length 1.
    temperature : float or None
        Cosines are divided by it, and their softmax over the tokens is taken, for each target;
        None: they are taken as they are.
    above : Tensor [m, N] or None
        Similarities of other targets, in front.

    Returns
    -------
    Tensor [m + N, N], or Similarity
        Of more rows than `rows.LARGE`, where no kernel runs the loop, made when they are needed.
    """
    if too_many_pairs(unit):
        return _Cosines(unit, temperature, above)
    pairs = unit @ unit.T
    if temperature is not None:
        pairs = (pairs / temperature).softmax(1)
    return pairs if above is None else torch.cat([above, pairs])


@torch.no_grad()
def max_coverage(
    similarity: Tensor | Similarity,
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
    similarity : Tensor [M, N], float, or Similarity
        Of M targets and N tokens. A `Similarity` makes them when they are needed, again and again.
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
    if not isinstance(similarity, Tensor):
        return greedy_order(_Coverage(similarity, weights, factor, start), k)
    held = _Held(similarity)
    gain = _Coverage(held, weights, factor, start)
    if in_one_launch(similarity, weights, factor):
        from sparevlm.kernels.greedy import covering  # imports Triton

        return covering(held.transposed, gain.value, factor, weights, k, start, gain.near)
    return greedy_order(gain, k)
