"""Pivoted selection: the row farthest from the span of those already kept, again and again."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparevlm.kernels import usable

from .checks import (
    check_features,
    check_k,
    check_tol,
    check_weights,
    scaled_rows,
    scaled_weights,
    working_dtype,
)
from .greedy import Gain, run_greedy
from .products import (
    Products,
    full_precision,
    prefer_gram,
    prefer_gram_of_small,
    products_for,
)
from .result import Selection, as_selection, fill_up

if TYPE_CHECKING:
    from .fused import FusedRun
    from .small import SmallRun

_SMALL_BYTES = 3 * 2**20  # of the features of an image: what stays in a core's cache
_CHUNK_BYTES = 2**26  # of Gram matrices and factors of a batch of such
_BATCH_BYTES = 2**30  # Gram matrices or factors that one chunk of a batch may hold on a GPU
_SYNC_EVERY = 16  # steps between two looks at a GPU's progress
_MAX_WEIGHT = 2.0**20  # beyond, rows that count are so small that their products may underflow
_TIE = 4  # roundings of the largest value within which values are ties
_PAD = 32  # entries; rows of every image start alike, so that products round alike


@torch.no_grad()
def select(
    features: Tensor, k: int, *, weights: Tensor | None = None, tol: float = 0.0
) -> Selection:
    """Pick k tokens that best span the others: QR with column pivoting of diag(w) X transposed.

    Each step keeps the token whose weighted residual, after projection onto the span of the tokens
    kept so far, is the largest. Squared residual norms are downdated with one row of a Cholesky
    factor a step, so no residual matrix is formed.

    Parameters
    ----------
    features : Tensor [N, D] or [B, N, D], bf16, fp16, fp32 or fp64
        One row a token. Worked on in fp32, or in fp64 throughout if it comes in fp64.
    k : int
        How many tokens to keep; ``k >= N`` keeps all N, in pivoted order.
    weights : Tensor [N] or [B, N], optional
        Real and not negative, by convention in [0, 1]: how much a token counts, both for being
        kept and in the residual. [N] serves every image of a batch.
    tol : float
        Stop once every image has a relative residual of at most ``tol``. 0 does not stop early.

    Returns
    -------
    Selection
        ``order`` [.., k] int64, ``residual`` [.., k + 1] and ``count`` [..] int64. With ``tol > 0``
        max(count) entries instead of k.

    Raises
    ------
    TypeError
        If features or weights are no real tensors of a floating-point dtype, or tol no number.
    ValueError
        If a shape does not fit, k is no positive integer, tol lies outside [0, 1], a weight is
        negative or not finite, or features hold NaN or infinity (the first bad row is named).
        While a CUDA graph is captured values cannot be looked at: rows with NaN or infinity then
        count as zero rows, and weights must be right.

    Notes
    -----
    Ties, up to four roundings of the largest value, go to the lowest index. A batch gives exactly
    what its images give one by one. k decides how products are taken, so where two tokens differ by
    rounding alone, ``select(X, j)`` may pick the other one than ``select(X, k).order[:j]``.

    On a CUDA or ROCm device with Triton, features up to fp32 and up to 8192 tokens an image, three
    launches do everything (`sparevlm.kernels`), and the host waits once, to learn that no value is
    NaN. `torch.compile` takes a call without ``tol`` as one operation.

    Once the best remaining value is below eps * N times the largest initial one, the rest are the
    largest w |x| not yet kept, and the residual stays flat. That test is also what keeps
    cancellation out: a downdated value is wrong by a few eps of its row's initial one, so whatever
    is still compared has correct leading digits, and neither recomputing nor re-orthogonalising
    changed a selection in trials. In fp32 the residual is therefore good to about 1e-6 absolute;
    and tokens of a norm sqrt(eps * N) below the largest (2 % at N = 2880) are out of sight: pass
    fp64 where they matter.

    References
    ----------
    SPARE, arXiv 2606.18681. Businger and Golub, Linear least squares solutions by Householder
    transformations, Numer. Math. 7, 1965.
    """
    check_features(features)
    k = min(check_k(k), features.shape[-2])
    tol = check_tol(tol)
    if torch.compiler.is_compiling() and tol == 0:
        order, residual = compiled_select(features, k, weights)
        return as_selection(order, residual, tol)
    w = check_weights(weights, features)
    images = features if features.ndim == 3 else features[None]
    if w is not None and features.ndim == 2:
        w = w[None]
    named = "image {}, row".format if features.ndim == 3 else "row".format

    runs: list[_Run | SmallRun | FusedRun] = []
    # Else products may be taken in bf16.
    with torch.autocast(features.device.type, enabled=False), full_precision():
        for first, last in _chunks(images, k):
            chunk = w[first:last] if w is not None else None
            run = _start(images[first:last], chunk, k, [named(b) for b in range(first, last)])
            run.advance(k, tol)
            if tol == 0:
                run.release()  # a later chunk may need the memory
            runs.append(run)
        steps = k
        if tol > 0:
            steps = max(run.steps for run in runs)
            for run in runs:
                run.advance(steps, 0.0)  # others of the batch may have needed more

    order = torch.cat([run.order(steps) for run in runs])
    residual = torch.cat([run.residual(steps) for run in runs])
    if features.ndim == 2:
        order, residual = order[0], residual[0]
    return as_selection(order, residual, tol)


@torch.library.custom_op("sparevlm::select", mutates_args=())
def compiled_select(features: Tensor, k: int, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """`select` without a tolerance as one operation that torch.compile does not look into."""
    selection = select(features, k, weights=weights)
    return selection.order, selection.residual


@compiled_select.register_fake
def _(features: Tensor, k: int, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    images, dtype = features.shape[:-2], working_dtype(features)
    order = features.new_empty((*images, k), dtype=torch.int64)
    return order, features.new_empty((*images, k + 1), dtype=dtype)


def _start(
    images: Tensor, weights: Tensor | None, k: int, names: list[str]
) -> _Run | SmallRun | FusedRun:
    if _is_small(images):
        from .small import SmallRun  # imports numpy

        eps, n = torch.finfo(working_dtype(images)).eps, images.shape[1]
        return SmallRun(
            *_prepared(images, weights, names), k,
            gram=_wants_gram(images, k), near=1 - _TIE * eps, floor=eps * n,
        )  # fmt: skip
    if not (usable(images) and _wants_gram(images, k)):
        return _Run(images, weights, k, names)
    from .fused import FusedRun  # imports Triton

    eps = torch.finfo(torch.float32).eps
    return FusedRun(images, weights, k, names, 1 - _TIE * eps, eps * images.shape[1])


def _is_small(images: Tensor) -> bool:
    """Whether an image's features stay in a CPU's cache, whatever the batch."""
    _, n, d = images.shape
    size = n * d * torch.finfo(working_dtype(images)).bits // 8
    return images.device.type == "cpu" and size <= _SMALL_BYTES and not usable(images)


def _wants_gram(images: Tensor, k: int) -> bool:
    if _is_small(images):
        return prefer_gram_of_small(images.shape[1], images.shape[2], k)
    return prefer_gram(images.shape[1], k, working_dtype(images), images.device)


def _chunks(images: Tensor, k: int) -> list[tuple[int, int]]:
    """Images to work on at once: many small ones or many on a GPU, else one, in the cache."""
    total, n, d = images.shape
    size = 1
    if _is_small(images):
        wide = n if _wants_gram(images, k) else 0
        size = max(
            1, _CHUNK_BYTES // (n * (k + wide) * torch.finfo(working_dtype(images)).bits // 8)
        )
    elif images.device.type != "cpu":
        wide = n if _wants_gram(images, k) else d
        bits = torch.finfo(working_dtype(images)).bits
        size = max(1, _BATCH_BYTES // (n * (k + wide) * bits // 8))
    return [(b, min(b + size, total)) for b in range(0, total, size)]


def _prepared(
    images: Tensor, weights: Tensor | None, names: list[str]
) -> tuple[list[Tensor], list[Tensor | None], Tensor]:
    """Rows [N, D] of every image, what they are multiplied by, and their weighted norms [B, N]."""
    dtype = working_dtype(images)
    rows: list[Tensor] = []
    scales: list[Tensor | None] = []
    norms: list[Tensor] = []
    for b, name in enumerate(names):
        x, norm = scaled_rows(images[b], dtype, name)
        w = None
        if weights is not None:
            w = scaled_weights(weights[b], norm)
            norm = norm.double() * w  # the tiniest would vanish in fp32
            if float(w.max()) > _MAX_WEIGHT:
                x, w = x.double().mul(w[:, None]), None
            x = x.to(dtype)
        rows.append(x)
        scales.append(w if w is None else w.to(dtype))
        norms.append(norm)
    return rows, scales, torch.stack(norms)


class _Run(Gain):
    """Greedy selection over a few images in step; can stop and go on.

    Products are taken image by image and everything else is elementwise or exact, so that an
    image's numbers do not depend on its company.
    """

    def __init__(self, images: Tensor, weights: Tensor | None, k: int, names: list[str]) -> None:
        dtype, device = working_dtype(images), images.device
        total, n, _ = images.shape
        rows, scales, self._norms = _prepared(images, weights, names)
        self._products: Products | None = products_for(rows, scales, k)
        # What a step maximises: the squared weighted residual norm of every token.
        self.value = self._norms.to(dtype).square()
        eps = torch.finfo(dtype).eps
        self._floor = eps * n * self.value.amax(-1, keepdim=True)
        self.near = 1 - _TIE * eps
        self._never = torch.full((), math.inf, dtype=dtype, device=device)
        self._zero = torch.zeros((), dtype=dtype, device=device)
        self._order = torch.zeros(k, total, 1, dtype=torch.int64, device=device)
        self._rank = torch.zeros(total, 1, dtype=torch.int64, device=device)
        self._energy = self.value.new_zeros(k + 1, total)
        width = math.ceil(n / _PAD) * _PAD
        self._factor: Tensor | None = self.value.new_empty(total, k, width)[..., :n]
        self._pivot_row = self.value.new_empty(total, math.ceil(k / _PAD) * _PAD)
        self._sync_every = 1 if device.type == "cpu" else _SYNC_EVERY
        self._sum_energy(0)
        self.steps, self._tol, self._exhausted = 0, 0.0, False

    def advance(self, stop: int, tol: float) -> None:
        """Pick tokens until there are ``stop``, or every image has reached ``tol`` > 0."""
        self._tol = tol
        self.steps = run_greedy(self, self._order, self.steps, stop)
        if self._exhausted:  # `order` fills up
            self._energy[self.steps + 1 : stop + 1] = self._energy[self.steps]
            self.steps = stop

    def finished(self, t: int, best: Tensor) -> bool:
        """See `Gain`: the tolerance is reached, or nothing is left to explain."""
        if t == 0 or t % self._sync_every:
            return False
        if self._tol > 0 and bool((self._relative(t) <= self._tol).all()):
            return True
        self._exhausted = not bool((best > self._floor).any())
        return self._exhausted

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        """See `Gain`: one row of the Cholesky factor, and the norms downdated with it."""
        gain, factor, products = self.value, self._factor, self._products
        assert factor is not None and products is not None
        alive = best > self._floor
        value = gain.gather(-1, pick)
        past, new, pivot_row = factor[:, :t], factor[:, t], self._pivot_row[:, :t]
        for b, out in enumerate(new.unbind(0)):
            products.write(b, pick[b], gain[b], out)
            if t > 0:
                seen = past[b]
                torch.index_select(seen, 1, pick[b], out=pivot_row[b, :, None])
                torch.addmv(out, seen.T, pivot_row[b], alpha=-1, out=out)
        # Exhausted images divide by infinity and stay as they are.
        new.div_(torch.where(alive, value.sqrt(), self._never))
        gain.addcmul_(new, new, value=-1).clamp_(min=0)
        gain.scatter_(-1, pick, torch.where(alive, self._zero, value))
        self._rank.add_(alive)
        self._sum_energy(t + 1)

    def _sum_energy(self, t: int) -> None:
        for gain, out in zip(self.value.unbind(0), self._energy[t].unbind(0), strict=True):
            torch.sum(gain, 0, out=out)

    def _relative(self, t: int | slice) -> Tensor:
        initial = self._energy[0]
        return self._energy[t] / torch.where(initial > 0, initial, 1)

    def release(self) -> None:
        """Drop what only further steps need."""
        self._factor = self._products = None

    def residual(self, steps: int) -> Tensor:
        """Relative residual [B, steps + 1]."""
        return self._relative(slice(0, steps + 1)).T.contiguous()

    def order(self, steps: int) -> Tensor:
        """Order [B, steps], filled up by weighted norm from where an image was exhausted on."""
        order = self._order[:steps, :, 0].T.contiguous()
        return fill_up(order, self._rank, self._norms)
