"""Maximum coverage: the token that lifts the others' best similarity most, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from .checks import check_k
from .compiled import compiled
from .greedy import in_one_launch, too_many_pairs
from .products import cosine_pairs
from .rows import blocks, unit_rows

_ROWS = 128  # targets whose similarities are summed at once
_ROUNDING = 1e-12  # share of a gain that sums of float64 may be wrong by
_NOTHING = 1e-10  # of a token's first gain: what is left of it by rounding alone
_COMPILED = (torch.float32, torch.float64)


class Similarity(Protocol):
    """Of M targets and N tokens, where the matrix of them is too large to be held."""

    shape: tuple[int, int]

    def new_ones(self, n: int) -> Tensor:
        """Ones [n] in their dtype."""

    def rows(self, targets: Tensor | slice) -> Tensor:
        """Similarities of some targets: [m, N], float."""

    def column(self, token: Tensor) -> Tensor:
        """Similarities of all targets to a token [1], int64: [M], float."""


class _Made:
    """One image, of which a `Similarity` makes what is asked for."""

    def __init__(self, similarity: Similarity) -> None:
        self._similarity = similarity

    def rows(self, images: Any, targets: Any) -> Any:
        """See `host_coverage.Source`."""
        return self._similarity.rows(torch.from_numpy(targets)).cpu().numpy()

    def column(self, pick: Any) -> Any:
        """See `host_coverage.Source`."""
        return self._similarity.column(torch.from_numpy(pick))[None].cpu().numpy()


def _first_gains(similarity: Tensor | Similarity, weights: Tensor, start: float) -> Tensor:
    """What each token covers by itself: [N], in float64 where the device has it."""
    wide = torch.float32 if weights.device.type == "mps" else torch.float64
    targets, n = similarity.shape
    gains = torch.zeros(n, dtype=wide, device=weights.device)
    for some in blocks(targets, _ROWS):
        rows = similarity[some] if isinstance(similarity, Tensor) else similarity.rows(some)
        gains += weights[some].to(wide) @ rows.to(wide).sub_(start).clamp_(min=0)
    return gains


class _Cosines:
    """What `cosines` gives where it is made when it is needed."""

    def __init__(self, unit: Tensor, temperature: float | None, above: Tensor | None) -> None:
        n, self._first = len(unit), 0 if above is None else len(above)
        self.shape = (n + self._first, n)
        self.new_ones = unit.new_ones
        self._unit, self._temperature = unit, temperature
        self._above = None if above is None else above.to(unit)
        self._totals: Tensor | None = None
        if temperature is not None:
            parts = [(unit[some] @ unit.T / temperature).logsumexp(1) for some in blocks(n)]
            self._totals = torch.cat(parts)

    def rows(self, targets: Tensor | slice) -> Tensor:
        """See `Similarity`."""
        if isinstance(targets, slice):
            targets = torch.arange(self.shape[0], device=self._unit.device)[targets]
        below = targets[targets >= self._first] - self._first
        alike = self._unit[below] @ self._unit.T
        if self._totals is not None and self._temperature is not None:
            alike = alike.div_(self._temperature).sub_(self._totals[below, None]).exp_()
        if self._above is None:
            return alike
        return torch.cat([self._above[targets[targets < self._first]], alike])

    def column(self, token: Tensor) -> Tensor:
        """See `Similarity`."""
        alike = self._unit @ self._unit[token[0]]
        if self._totals is not None and self._temperature is not None:
            alike = alike.div_(self._temperature).sub_(self._totals).exp_()
        return alike if self._above is None else torch.cat([self._above[:, token[0]], alike])


def cosines(
    states: Tensor, temperature: float | None = None, above: Tensor | None = None
) -> Tensor | Similarity:
    """Cosines of all pairs of rows, for `max_coverage`.

    Parameters
    ----------
    states : Tensor [N, D], float
        One row a token.
    temperature : float or None
        Cosines are divided by it, and their softmax over the tokens is taken, for each target;
        None: they are taken as they are.
    above : Tensor [m, N] or None
        Similarities of other targets, in front.

    Returns
    -------
    Tensor [m + N, N], or Similarity
        In float32 (float64 for float64). Of more rows than `rows.LARGE`, where no kernel runs the
        loop, made when they are needed.
    """
    if too_many_pairs(states):
        return _Cosines(unit_rows(states), temperature, above)
    alike = cosine_pairs(states)
    if temperature is not None:
        alike = alike.div_(temperature).softmax(1)
    return alike if above is None else torch.cat([above.to(alike), alike])


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
    Elsewhere the host makes them, and sums gains in float64.

    References
    ----------
    Nemhauser, Wolsey and Fisher, An analysis of approximations for maximizing submodular set
    functions, Mathematical Programming 14, 1978.
    """
    return max_coverage_each([similarity], [k], weights=[weights], factors=[factor], start=start)[0]


@torch.no_grad()
def max_coverage_each(
    similarities: Sequence[Tensor | Similarity],
    ks: Sequence[int],
    *,
    weights: Sequence[Tensor | None] | None = None,
    factors: Sequence[Tensor | None] | None = None,
    start: float = 0.0,
) -> list[Tensor]:
    """`max_coverage` of several images: the same, in one loop.

    Where matrices differ in shape, smaller ones are padded with tokens that cannot be picked and
    targets that cannot be covered.
    """
    none = [None] * len(similarities)
    weights, factors = weights or none, factors or none
    scales = [s.new_ones(s.shape[0]) if w is None else w
              for s, w in zip(similarities, weights, strict=True)]  # fmt: skip
    parts = [s.new_ones(s.shape[1]) if f is None else f
             for s, f in zip(similarities, factors, strict=True)]  # fmt: skip
    wanted = [min(check_k(k), s.shape[1]) for k, s in zip(ks, similarities, strict=True)]
    orders: dict[int, Tensor] = {}
    together: list[int] = []
    for i, similarity in enumerate(similarities):
        if not isinstance(similarity, Tensor):
            (orders[i],) = _on_the_host([similarity], [wanted[i]], [scales[i]], [parts[i]], start)
        elif in_one_launch(similarity, scales[i], parts[i]):
            orders[i] = _launched(similarity, wanted[i], scales[i], parts[i], start)
        else:
            together.append(i)
    if together:
        found = _on_the_host(
            [similarities[i] for i in together], [wanted[i] for i in together],
            [scales[i] for i in together], [parts[i] for i in together], start,
        )  # fmt: skip
        orders |= dict(zip(together, found, strict=True))
    return [orders[i] for i in range(len(wanted))]


def _on_the_host(
    similarities: Sequence[Tensor | Similarity], ks: Sequence[int], weights: Sequence[Tensor],
    factors: Sequence[Tensor], start: float,
) -> list[Tensor]:  # fmt: skip
    gains = [_first_gains(s, w, start) for s, w in zip(similarities, weights, strict=True)]
    held = [s for s in similarities if isinstance(s, Tensor) and s.dtype in _COMPILED]
    if len(held) == len(similarities) and compiled():
        parts = zip(held, ks, gains, weights, factors, strict=True)
        return [_covered(*part, start) for part in parts]
    from .host_coverage import Held, Source, covering  # imports numpy

    targets = max(s.shape[0] for s in similarities)
    n = max(s.shape[1] for s in similarities)
    first, dtype, device = similarities[0], weights[0].dtype, weights[0].device
    source: Source
    if isinstance(first, Tensor):
        padded = [
            pad(s, (0, n - s.shape[1], 0, targets - s.shape[0]), value=-torch.inf)
            for s in similarities if isinstance(s, Tensor)
        ]  # fmt: skip
        source = Held((torch.stack(padded) if len(padded) > 1 else padded[0][None]).cpu().numpy())
    else:
        source = _Made(first)
    order = covering(
        source,
        _stacked([pad(g, (0, n - len(g)), value=1.0) for g in gains]).double().numpy(),
        _stacked([pad(w, (0, targets - len(w))) for w in weights]).double().numpy(),
        _stacked([pad(f, (0, n - len(f)), value=-torch.inf) for f in factors]).double().numpy(),
        _stacked([w.new_full((targets,), start) for w in weights]).numpy(),
        max(ks), _NOTHING, 1 - max(4 * torch.finfo(dtype).eps, _ROUNDING),
    )  # fmt: skip
    picks = torch.from_numpy(order).to(device)
    return [picks[:k, b].clone() for b, k in enumerate(ks)]


def _covered(
    similarity: Tensor, k: int, gains: Tensor, weights: Tensor, factor: Tensor, start: float
) -> Tensor:
    """What a compiled loop picks of one image [M, N]."""
    from .loops_coverage import cover  # imports numba

    held = similarity.detach().cpu().contiguous()
    gains, weights, factor = (x.detach().cpu().double() for x in (gains, weights, factor))
    reach, order = held.new_full((len(held),), start), torch.empty(k, dtype=torch.int64)
    state = held, gains, gains * _NOTHING, weights, factor.clone(), reach, order
    cover(*(x.numpy() for x in state), 1 - max(4 * torch.finfo(held.dtype).eps, _ROUNDING))
    return order.to(similarity.device)


def _stacked(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).cpu()


def _launched(similarity: Tensor, k: int, weights: Tensor, factor: Tensor, start: float) -> Tensor:
    from sparevlm.kernels.greedy import covering  # imports Triton

    gains = factor * (weights @ (similarity - start).clamp_(min=0))
    close = 1 - 16 * torch.finfo(similarity.dtype).eps  # the kernel sums in float32
    return covering(similarity.T.contiguous(), gains, factor, weights, k, start, close)
