"""Volume sampling: sets of rows drawn by the square of the volume that they span."""

from __future__ import annotations

import torch
from torch import Tensor

from . import rows as many
from .checks import check_k, scaled_rows


@torch.no_grad()
def volume_sample(features: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Draw k rows S with probability proportional to det(X_S X_S^T).

    First k eigenvectors of the Gram matrix are drawn by elementary symmetric polynomials of its
    eigenvalues, then rows one after the other by their share in the space of these, which is
    narrowed each time. Works in fp64. Where the features have a lower rank than k, the rest are the
    largest rows not yet kept.

    Parameters
    ----------
    features : Tensor [N, D], bf16, fp16, fp32 or fp64
        One row a token.
    k : int
        How many tokens to keep; ``k >= N`` keeps all N.
    generator : torch.Generator
        On the CPU, so that every device draws the same.

    Returns
    -------
    Tensor [k], int64
        In the order drawn.

    References
    ----------
    Deshpande, Rademacher, Vempala and Wang, Matrix approximation and projective clustering via
    volume sampling, Theory of Computing 2, 2006. Kulesza and Taskar, k-DPPs, ICML 2011 (algorithm).
    """
    rows, norms = scaled_rows(features, torch.float64)
    n = len(rows)
    k = min(check_k(k), n)
    if n > max(many.LARGE, rows.shape[1]):
        vectors, roots, _ = torch.linalg.svd(rows, full_matrices=False)
        values, vectors = roots.square().flip(0), vectors.flip(1)
    else:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
    floor = torch.finfo(torch.float64).eps * n * values[-1:].clamp(min=0)
    values, vectors = values[values > floor], vectors[:, values > floor]
    rank = min(k, len(values))
    uniform = torch.rand(n + k, generator=generator, dtype=torch.float64)
    chosen = _choose(values.cpu(), rank, uniform)
    space = vectors[:, chosen.to(vectors.device)]
    order = torch.zeros(rank, dtype=torch.int64, device=rows.device)
    shares = space.square().sum(1)
    for t in range(rank):
        mass = shares.cumsum(0)
        point = uniform[n + t].to(mass.device) * mass[-1]
        pick = torch.searchsorted(mass, point, right=True).clamp(max=n - 1)
        order[t] = pick
        # Householder: the one direction of the space that the pick has is taken out.
        direction = space[pick] / space[pick].norm()
        along = space @ direction
        space = space - along[:, None] * direction
        shares = (shares - along.square()).clamp(min=0)
        shares[order[: t + 1]] = 0
    rest = norms.index_fill(0, order, -1).argsort(descending=True, stable=True)
    return torch.cat([order, rest[: k - rank]])


def _choose(values: Tensor, k: int, uniform: Tensor) -> Tensor:
    """Draw k of the eigenvalues [m], a set by the product of its values: indices [k]."""
    m = len(values)
    logs = values.log()
    # table[i, j]: log of the j-th elementary symmetric polynomial of the first i values
    table = torch.full((m + 1, k + 1), -torch.inf, dtype=torch.float64)
    table[:, 0] = 0
    for i in range(1, m + 1):
        table[i, 1:] = torch.logaddexp(table[i - 1, 1:], logs[i - 1] + table[i - 1, :-1])
    taken, j = [], k
    for i in range(m, 0, -1):
        if j == 0:
            break
        chance = torch.exp(logs[i - 1] + table[i - 1, j - 1] - table[i, j])
        if i == j or float(uniform[i - 1]) < float(chance):
            taken.append(i - 1)
            j -= 1
    return torch.tensor(taken, dtype=torch.int64)
