"""What may come in, and bringing it to one dtype and a safe scale."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# Squares stay far from overflow and underflow while row norms lie within these powers of two.
_SAFE = 2.0**20
_TINY = 2.0**-30
_ALIGNMENT = 64  # bytes, as the CPU allocator gives


def check_features(features: Any) -> None:
    """Raise unless this is a real floating-point tensor [N, D] or [B, N, D] with entries."""
    if not isinstance(features, Tensor):
        raise TypeError(
            f"features must be a torch.Tensor, not {type(features).__name__}: "
            "convert an array with torch.from_numpy or torch.as_tensor"
        )
    if not features.is_floating_point():
        raise TypeError(
            f"features must be floating point, not {features.dtype}: convert with features.float()"
        )
    if features.layout != torch.strided:
        raise TypeError(f"features must be dense, not {features.layout}: use features.to_dense()")
    if features.ndim not in (2, 3):
        raise ValueError(
            f"features must be [N, D] or [B, N, D], not {list(features.shape)}: "
            "one row is one token"
        )
    if 0 in features.shape:
        raise ValueError(
            f"features of shape {list(features.shape)} hold nothing to select from: "
            "pass at least one image, one token and one feature"
        )


def check_k(k: Any) -> int:
    """Return k as an int, or raise ValueError unless it is a positive integer."""
    try:
        number = None if isinstance(k, bool) else operator.index(k)
    except TypeError:
        number = None
    if number is None or number < 1:
        raise ValueError(f"k must be a positive integer (how many tokens to keep), not {k!r}")
    return number


def check_tol(tol: Any) -> float:
    """Return tol as a float, or raise unless it is a real number in [0, 1]."""
    if isinstance(tol, bool) or not hasattr(tol, "__float__"):
        raise TypeError(f"tol must be a number, not {tol!r}")
    try:
        number = float(tol)
    except (TypeError, ValueError):  # an array
        raise TypeError(f"tol must be a number, not {tol!r}") from None
    if not 0 <= number <= 1:  # false for NaN too
        raise ValueError(
            f"tol must lie in [0, 1] (the share of energy left unexplained), not {tol!r}"
        )
    return number


def check_weights(weights: Any, features: Tensor) -> Tensor | None:
    """Return weights of the features' leading shape, or raise if they cannot be that."""
    if weights is None:
        return None
    if not isinstance(weights, Tensor):
        raise TypeError(
            f"weights must be a torch.Tensor or None, not {type(weights).__name__}: "
            "convert with torch.as_tensor"
        )
    if weights.is_complex():
        raise TypeError("weights must be real, not complex")
    shape = features.shape[:-1]
    if weights.shape not in (shape, shape[-1:]):
        raise ValueError(
            f"weights must have one entry per token, {list(shape)} for features of shape "
            f"{list(features.shape)}, not {list(weights.shape)}"
        )
    # Weights finer than the features' dtype must not become infinite or zero on the way.
    weights = weights.detach().to(device=features.device, dtype=torch.float64)
    if can_look(weights) and not bool(((weights >= 0) & weights.isfinite()).all()):
        raise ValueError(
            "weights must be finite and not negative: clamp them to [0, 1] and remove NaN"
        )
    return torch.broadcast_to(weights, shape)


def can_look(values: Tensor) -> bool:
    """Whether the host may ask for values: not while a CUDA graph is captured."""
    return not (values.is_cuda and torch.cuda.is_current_stream_capturing())


def bad_row(name: str, row: int) -> ValueError:
    """The error for features with NaN or infinity."""
    return ValueError(
        f"features hold NaN or infinity, first in {name} {row}: "
        "check the encoder's output (fp16 overflow is the usual cause)"
    )


def working_dtype(features: Tensor) -> torch.dtype:
    """float64 stays, everything else is worked on in float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def scaled_rows(image: Tensor, dtype: torch.dtype, name: str = "row") -> tuple[Tensor, Tensor]:
    """Rows of one image scaled by a power of two, and their norms.

    The scale keeps squares in range and changes neither a selection nor a relative residual; it is
    left at 1, and the rows are not copied, while nothing needs it.

    Parameters
    ----------
    image : Tensor [N, D]
        Features of one image.
    dtype : torch.dtype
        What to work in.
    name : str
        How the error names a row.

    Returns
    -------
    rows : Tensor [N, D]
        Contiguous and aligned, so that a product does not depend on where the image lay in a batch.
    norms : Tensor [N]
        Euclidean norms of ``rows``, right for the tiniest rows too.

    Raises
    ------
    ValueError
        If an entry is NaN or infinite.
    """
    rows = _laid_out(image, dtype)
    norms = torch.linalg.vector_norm(rows, dim=1)
    largest, smallest = torch.stack((norms.max(), norms.min())).tolist()
    if not 1 / _SAFE <= largest <= _SAFE:  # NaN, infinite, zero, or far from 1
        finite = rows.isfinite().all(1)
        if not bool(finite.all()):
            raise bad_row(name, int(finite.logical_not().nonzero()[0]))
        peak = float(rows.abs().max())
        if peak == 0:
            return rows, torch.zeros_like(norms)
        rows = _normalised(rows, peak)
        norms = torch.linalg.vector_norm(rows, dim=1)
        largest, smallest = torch.stack((norms.max(), norms.min())).tolist()
    if smallest < _TINY * largest:
        tiny = (norms < _TINY * largest).nonzero()[:, 0]
        part = rows[tiny]
        peaks = part.abs().amax(1)
        safe = torch.where(peaks > 0, peaks, 1)
        norms[tiny] = peaks * torch.linalg.vector_norm(part / safe[:, None], dim=1)
    return rows, norms


def scaled_rows_each(
    images: Sequence[Tensor], dtype: torch.dtype, names: Sequence[str]
) -> tuple[list[Tensor], list[Tensor]]:
    """`scaled_rows` of several images: rows, and norms. The host looks once where all is usual."""
    rows = [_laid_out(image, dtype) for image in images]
    norms = [torch.linalg.vector_norm(x, dim=1) for x in rows]
    for i, (largest, smallest) in enumerate(_extremes(norms)):
        if not 1 / _SAFE <= largest <= _SAFE or smallest < _TINY * largest:
            rows[i], norms[i] = scaled_rows(images[i], dtype, names[i])
    return rows, norms


def _laid_out(image: Tensor, dtype: torch.dtype) -> Tensor:
    rows = image.detach().to(dtype).contiguous()
    return rows.clone() if rows.data_ptr() % _ALIGNMENT else rows


def _extremes(values: Sequence[Tensor]) -> list[tuple[float, float]]:
    """The largest and the least of each, read at once."""
    most, least = [v.max() for v in values], [v.min() for v in values]
    found = torch.stack(most + least).tolist()
    return list(zip(found[: len(most)], found[len(most) :], strict=True))


def scaled_weights(weights: Tensor, norms: Tensor) -> Tensor:
    """Weights of one image in float64, scaled so that the largest weighted norm is near 1.

    Parameters
    ----------
    weights : Tensor [N], float64
        Finite and not negative.
    norms : Tensor [N]
        Of the scaled rows. Zero rows get weight 0, since they must not stand in the way.
    """
    w = torch.where(norms > 0, weights, 0)
    largest = float((w * norms).max())
    if 1 / _SAFE <= largest <= _SAFE and float(w.max()) <= _SAFE:
        return w  # a power of two would change no pick
    for size in (torch.ones_like(w), norms.double()):  # first so that the product cannot underflow
        w = _normalised(w, float((w * size).max()))
    return w


def scaled_weights_each(
    weights: Sequence[Tensor], norms: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """`scaled_weights` of several images, norms times them in float64, and the largest of each."""
    scales, sizes = list(weights), [w * norm for w, norm in zip(weights, norms, strict=True)]
    heaviest = [most for most, _ in _extremes(scales)]
    for i, (largest, smallest) in enumerate(_extremes(sizes)):
        if not (1 / _SAFE <= largest <= _SAFE and smallest > 0 and heaviest[i] <= _SAFE):
            scales[i] = scaled_weights(weights[i], norms[i])
            sizes[i], heaviest[i] = norms[i].double() * scales[i], float(scales[i].max())
    return scales, sizes, heaviest


def _normalised(values: Tensor, peak: float) -> Tensor:
    """Scale by the power of two that brings ``peak`` to about 1; as is if ``peak`` is 0."""
    exponent = min(-math.frexp(peak)[1], 1000)  # the smallest float64 would need more than fits
    # Two factors, since one alone may leave the range of the dtype.
    return (values * 2.0 ** (exponent // 2)).mul_(2.0 ** (exponent - exponent // 2))
