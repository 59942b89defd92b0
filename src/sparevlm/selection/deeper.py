"""What the kept tokens leave of the others, computed anew in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .products import pairs
from .rows import even_blocks

_ROWS = 512  # that are projected at once


def residual_rows(rows: Tensor, kept: Tensor) -> Tensor:
    """Rows [N, D] less their projection on the span of the kept ones [c], which become zero.

    Given in the dtype of the rows. All blocks have one shape, so that twins round alike.
    """
    # Some devices know no float64.
    device = torch.device("cpu") if rows.device.type == "mps" else rows.device
    basis = torch.linalg.qr(rows[kept].to(device, torch.float64).T).Q
    left = torch.empty_like(rows)
    for some in even_blocks(len(rows), _ROWS):
        part = rows[some].to(device, torch.float64)
        for _ in range(1 if rows.dtype == torch.float32 else 2):  # twice is enough
            part = part - (part @ basis) @ basis.T
        left[some] = part.to(left)
    left[kept] = 0
    return left


def weighted_gram(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Inner products [N, N], float64, of rows [N, D] times weights [N]."""
    product = pairs(rows.double())
    return product if weights is None else product.mul_(weights).mul_(weights[:, None])


def remaining_gram(gram: Tensor, kept: Tensor) -> Tensor:
    """Inner products [N, N] of what the kept rows [c] leave of all: the Schur complement.

    Cheaper than projecting rows where there is a Gram matrix, in float64, of them.
    """
    columns = gram[kept]
    lower, _ = torch.linalg.cholesky_ex(columns[:, kept])
    factor = torch.linalg.solve_triangular(lower, columns, upper=False)
    left = gram.addmm(factor.T, factor, alpha=-1)
    left.diagonal().clamp_(min=0)
    left[kept] = 0
    left[:, kept] = 0
    return left


def energies(rows: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted squared norms [N] of rows, on the CPU, float64."""
    norms = torch.linalg.vector_norm(rows, dim=1).cpu().double()
    return (norms if weights is None else norms * weights.cpu()).square()
