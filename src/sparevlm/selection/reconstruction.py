"""How much a set of tokens leaves unexplained, and the least that any set could."""

from typing import Any

import torch
from torch import Tensor

from .checks import check_features, check_k, check_weights, scaled_rows, scaled_weights


@torch.no_grad()
def reconstruction_error(
    features: Tensor, indices: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Relative squared error of rebuilding all tokens from the indexed ones by least squares.

    Computed afresh in fp64 from an orthonormal basis of the kept rows, whatever their rank.

    Parameters
    ----------
    features : Tensor [N, D] or [B, N, D], bf16, fp16, fp32 or fp64
        One row a token.
    indices : Tensor [k] or [B, k], integer
        Kept tokens, in any order; duplicates do no harm, and none at all gives 1.
    weights : Tensor [N] or [B, N], optional
        How much each token's error counts, real and not negative.

    Returns
    -------
    Tensor [] or [B], float64
        sum_i w_i^2 |x_i - P x_i|^2 / sum_i w_i^2 |x_i|^2 with P the projection onto the span of
        the kept rows; 0 where the denominator is.

    Raises
    ------
    TypeError
        If a tensor is none, or has the wrong kind of dtype.
    ValueError
        If shapes do not fit, an index lies outside [0, N), a weight is negative or not finite, or
        features hold NaN or infinity.
    """
    check_features(features)
    _check_indices(indices, features)
    weights = check_weights(weights, features)
    kept = indices.to(device=features.device, dtype=torch.int64)
    with torch.autocast(features.device.type, enabled=False):
        if features.ndim == 2:
            return _error(features, kept, weights, "row")
        parts = weights if weights is not None else [None] * len(features)
        images = zip(features, kept, parts, strict=True)
        return torch.stack([_error(*pair, f"image {b}, row") for b, pair in enumerate(images)])


@torch.no_grad()
def reconstruction_curve(features: Tensor, order: Tensor, weights: Tensor | None = None) -> Tensor:
    """Relative squared error of rebuilding all tokens from the first 0, 1, .. k of an order.

    Any order will do, such as one that another method picked; `select` gives that of its own
    (``Selection.residual``) for free.

    Parameters
    ----------
    features : Tensor [N, D], bf16, fp16, fp32 or fp64
        One row a token.
    order : Tensor [k], integer
        Kept tokens, in the order kept.
    weights : Tensor [N], optional
        How much each token's error counts, real and not negative.

    Returns
    -------
    Tensor [k + 1], float64
        `reconstruction_error` of ``order[:j]`` for j = 0, .. k, but for rounding of 1e-14.

    Raises
    ------
    TypeError, ValueError
        As `reconstruction_error` does, and if features are a batch.
    """
    check_features(features)
    if features.ndim != 2:
        raise ValueError(f"features of shape {list(features.shape)}: pass one image [N, D]")
    _check_indices(order, features)
    weights = check_weights(weights, features)
    order = order.to(device=features.device, dtype=torch.int64)
    with torch.autocast(features.device.type, enabled=False):
        rows, norms = scaled_rows(features, torch.float64, "row")
        # An orthonormal basis of growing spans, twins and zero rows adding nothing to it.
        basis = rows.new_zeros(rows.shape[1], len(order))
        least = torch.finfo(torch.float64).eps * max(rows.shape)
        for j, at in enumerate(order):
            rest = rows[at] / torch.where(norms[at] > 0, norms[at], 1)
            for _ in range(2):  # once is not enough against rounding
                rest = rest - basis[:, :j] @ (basis[:, :j].T @ rest)
            length = rest.norm()
            basis[:, j] = torch.where(length > least, rest / torch.where(length > 0, length, 1), 0)
        if weights is not None:
            rows = rows * scaled_weights(weights, norms)[:, None]
        total = rows.square().sum()
        gains = (rows @ basis).square().sum(0)
        left = total - torch.cat([gains.new_zeros(1), gains.cumsum(0)])
    return (left / torch.where(total > 0, total, 1)).clamp_(min=0)


@torch.no_grad()
def svd_bound(features: Tensor, k: int | None = None, weights: Tensor | None = None) -> Tensor:
    """Relative squared error of the best rank-k approximation, which no k tokens can beat.

    Parameters
    ----------
    features : Tensor [N, D] or [B, N, D], bf16, fp16, fp32 or fp64
        One row a token.
    k : int, optional
        The rank; None gives every rank from 0 to N, in line with ``Selection.residual``.
    weights : Tensor [N] or [B, N], optional
        How much each token's error counts, real and not negative.

    Returns
    -------
    Tensor [..] or [.., N + 1], float64
        Sum of the squared singular values of diag(w) X after the k-th, over the sum of all; 0 where
        that is 0, and from the rank on.

    Raises
    ------
    TypeError
        If a tensor is none, or has the wrong kind of dtype.
    ValueError
        If shapes do not fit, k is no positive integer, a weight is negative or not finite, or
        features hold NaN or infinity.

    References
    ----------
    Eckart and Young, The approximation of one matrix by another of lower rank, Psychometrika 1,
    1936.
    """
    check_features(features)
    rank = None if k is None else min(check_k(k), features.shape[-2])
    weights = check_weights(weights, features)
    with torch.autocast(features.device.type, enabled=False):
        if features.ndim == 2:
            bound = _bound(features, weights, "row")
        else:
            parts = weights if weights is not None else [None] * len(features)
            images = zip(features, parts, strict=True)
            bound = torch.stack([_bound(*pair, f"image {b}, row") for b, pair in enumerate(images)])
    return bound if rank is None else bound[..., rank]


def _error(image: Tensor, kept: Tensor, weights: Tensor | None, name: str) -> Tensor:
    rows, norms = scaled_rows(image, torch.float64, name)
    # Rows of length 1, so that a small one counts as a direction of its own.
    basis = rows[kept] / torch.where(norms > 0, norms, 1)[kept][:, None]
    _, sizes, directions = torch.linalg.svd(basis, full_matrices=False)
    if len(sizes):
        eps = torch.finfo(torch.float64).eps
        directions = directions[sizes > eps * max(basis.shape) * sizes[0]]
    rest = rows - (rows @ directions.T) @ directions
    if weights is not None:
        w = scaled_weights(weights, norms)[:, None]
        rows, rest = rows * w, rest * w
    total = rows.square().sum()
    return rest.square().sum() / torch.where(total > 0, total, 1)


def _bound(image: Tensor, weights: Tensor | None, name: str) -> Tensor:
    rows, norms = scaled_rows(image, torch.float64, name)
    if weights is not None:
        rows = rows * scaled_weights(weights, norms)[:, None]
    squares = torch.linalg.svdvals(rows).square()
    bound = rows.new_zeros(len(rows) + 1)
    # Summed from the smallest on; ranks beyond min(N, D) leave nothing.
    bound[: len(squares)] = squares.flip(0).cumsum(0).flip(0)[: len(bound)]
    return bound / torch.where(bound[0] > 0, bound[0], 1)


def _check_indices(indices: Any, features: Tensor) -> None:
    if not isinstance(indices, Tensor):
        raise TypeError(
            f"indices must be a torch.Tensor, not {type(indices).__name__}: "
            "convert with torch.as_tensor"
        )
    if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
        raise TypeError(f"indices must be integers, not {indices.dtype}: use mask.nonzero()[:, 0]")
    if indices.ndim != features.ndim - 1 or indices.shape[:-1] != features.shape[:-2]:
        raise ValueError(
            f"indices of shape {list(indices.shape)} do not fit features of shape "
            f"{list(features.shape)}: pass [k] for one image, [B, k] for a batch"
        )
    n = features.shape[-2]
    if indices.numel() and not bool(((indices >= 0) & (indices < n)).all()):
        raise ValueError(f"indices must lie in [0, {n}): there are {n} tokens")
