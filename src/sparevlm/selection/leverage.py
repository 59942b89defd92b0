"""Leverage scores, and column subset selection by drawing with them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_k, scaled_rows
from .pivoting import select


@torch.no_grad()
def leverage_scores(features: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """How much each row takes part in the best subspace of a rank.

    Parameters
    ----------
    features : Tensor [N, D], bf16, fp16, fp32 or fp64
        One row a token. Worked on in fp64.
    rank : int
        Dimension of the subspace; fewer where the features have fewer.

    Returns
    -------
    scores : Tensor [N], float64
        Squared row norms of the leading left singular vectors; they sum to the rank.
    vectors : Tensor [N, r], float64
        These singular vectors.
    residual : Tensor [N], float64
        Squared norm of each row outside the subspace, as a share of their sum; 0 where that is 0.

    References
    ----------
    Drineas, Mahoney and Muthukrishnan, Relative-error CUR matrix decompositions, SIAM Journal on
    Matrix Analysis and Applications 30, 2008.
    """
    rows, norms = scaled_rows(features, torch.float64)
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0), vectors.flip(1)
    floor = torch.finfo(torch.float64).eps * len(rows) * values[:1].clamp(min=0)
    rank = max(1, min(check_k(rank), int((values > floor).sum())))
    vectors = vectors[:, :rank]
    if len(rows) > rows.shape[1]:
        vectors = rows @ vectors / values[:rank].clamp(min=1e-300).sqrt()
    inside = (vectors.square() * values[:rank]).sum(1)
    outside = (norms.square() - inside).clamp(min=0)
    share = outside / outside.sum() if float(values[rank:].clamp(min=0).sum()) > float(floor) else 0
    return vectors.square().sum(1), vectors, outside * 0 + share


def draw(weights: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k of N without replacement, one after the other, each by its weight among those left.

    Parameters
    ----------
    weights : Tensor [N]
        Not negative; tokens of weight 0 come last, by index.
    k : int
        At most N.
    generator : torch.Generator
        On the CPU, so that every device draws the same.

    Returns
    -------
    Tensor [k], int64
        In the order drawn.

    References
    ----------
    Efraimidis and Spirakis, Weighted random sampling with a reservoir, Information Processing
    Letters 97, 2006: the smallest E_i / w_i, with E_i exponential.
    """
    uniform = torch.rand(len(weights), generator=generator, dtype=torch.float64)
    times = -torch.log1p(-uniform).to(weights.device) / weights.double()
    times = torch.where(weights > 0, times, torch.inf)
    return times.argsort(stable=True)[:k]


@torch.no_grad()
def two_stage(features: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw about k log k rows by leverage, then pick k of them by pivoting.

    Row j is drawn with probability q_j = min(1, c p_j), where c = k log k (at least 2 k) and p_j is
    the mean of its leverage score for rank k, as a share, and its share of what lies outside that
    subspace. Pivoting then works on the drawn rows of the singular vectors, divided by sqrt(q_j).
    Where fewer than k were drawn, the largest p_j left complete them. Works in fp64.

    Returns
    -------
    Tensor [k], int64
        In the order picked.

    References
    ----------
    Boutsidis, Mahoney and Drineas, An improved approximation algorithm for the column subset
    selection problem, SODA 2009, algorithm 1.
    """
    n = features.shape[0]
    k = min(check_k(k), n)
    scores, vectors, outside = leverage_scores(features, k)
    chances = scores / scores.sum()
    if bool(outside.any()):
        chances = (chances + outside) / 2
    wanted = max(2 * k, math.ceil(k * math.log(k)))
    kept = (wanted * chances).clamp(max=1)
    uniform = torch.rand(n, generator=generator, dtype=torch.float64).to(kept.device)
    drawn = (uniform < kept).nonzero()[:, 0]
    if len(drawn) < k:
        rest = chances.index_fill(0, drawn, -1).argsort(descending=True, stable=True)
        drawn = torch.cat([drawn, rest[: k - len(drawn)]]).sort().values
    scaled = vectors[drawn] / kept[drawn].clamp(min=1e-300).sqrt()[:, None]
    return drawn[select(scaled, k).order]
