"""Strong rank-revealing QR: pivoted selection, then exchanges while they enlarge the volume."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_k, scaled_rows
from .pivoting import select

_TINY = 1e-10  # a kept set whose volume is smaller than this share of its norms' is left alone


@torch.no_grad()
def strong_rrqr(features: Tensor, k: int, factor: float = 2.0) -> Tensor:
    """Pick k rows such that no exchange of one multiplies the volume by more than `factor`.

    With C the coefficients of the other rows in terms of the kept ones, omega_i^-2 the diagonal of
    the inverse Gram matrix of the kept rows and gamma_j the residual norms of the others,
    exchanging i and j multiplies the volume by sqrt(C_ij^2 + (gamma_j / omega_i)^2). Starting from
    pivoted selection, the best exchange is made until none exceeds `factor`. Works in fp64.

    Parameters
    ----------
    features : Tensor [N, D], bf16, fp16, fp32 or fp64
        One row a token.
    k : int
        How many tokens to keep; ``k >= N`` keeps all N.
    factor : float
        f > 1 in the paper: smaller is a better set and more exchanges.

    Returns
    -------
    Tensor [k], int64
        Kept tokens: those of pivoted selection in their order, an exchanged one in the place of the
        one it replaced.

    References
    ----------
    Gu and Eisenstat, Efficient algorithms for computing a strong rank-revealing QR factorization,
    SIAM Journal on Scientific Computing 17, 1996, algorithm 4.
    """
    n = features.shape[0]
    k = min(check_k(k), n)
    order = select(features, k).order
    if k == n:
        return order
    rows, norms = scaled_rows(features, torch.float64)
    squares = norms.square()
    gram = rows[order] @ rows.T  # of the kept with all
    for _ in range(10 * n):  # every exchange enlarges the volume; this bounds rounding only
        small = gram[:, order]
        lower, failed = torch.linalg.cholesky_ex(small)
        kept_norms = squares[order].clamp(min=torch.finfo(torch.float64).tiny)
        if int(failed) or bool((lower.diagonal().square() < _TINY * kept_norms).any()):
            return order  # numerically of lower rank: there is no volume to enlarge
        coefficients = torch.cholesky_solve(gram, lower)  # [k, N]
        residual = (squares - (coefficients * gram).sum(0)).clamp(min=0)
        spread = torch.cholesky_inverse(lower).diagonal()
        volume = coefficients.square() + spread[:, None] * residual
        volume[:, order] = 0
        best = volume.max()
        if not bool(best > factor**2):
            return order
        flat = int((volume >= best).flatten().nonzero()[0])
        i, j = flat // n, flat % n
        order[i] = j
        gram[i] = rows @ rows[j]
    return order
