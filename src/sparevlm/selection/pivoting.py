"""Pivoted selection: the row farthest from the span of those already kept, again and again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    ColumnProducts,
    GramProducts,
    Products,
    Way,
    full_precision,
    host_way,
    prefer_gram,
)
from .result import Selection, as_selection, fill_up
from .rows import in_rooms

if TYPE_CHECKING:
    from .fused import FusedRun
    from .host import HostRun

_CACHED_BYTES = 3 * 2**20  # of the features of an image: what stays in a core's cache
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

    runs: list[_Run | HostRun | FusedRun] = []
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

    orders, residuals = [run.order(steps) for run in runs], [run.residual(steps) for run in runs]
    order, residual = orders[0], residuals[0]
    if len(runs) > 1:
        order, residual = torch.cat(orders), torch.cat(residuals)
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


@torch.no_grad()
def select_each(
    pictures: Sequence[Tensor], ks: Sequence[int], weights: Sequence[Tensor | None] | None = None
) -> list[Selection]:
    """`select` of several images: the same, and faster on a CPU, or where shapes are alike.

    Parameters
    ----------
    pictures : sequence of Tensor [N, D]
        As `select` takes them; shapes and dtypes may differ.
    ks : sequence of int
        How many tokens to keep of each.
    weights : sequence of (Tensor [N] or None), optional
        Of each image.

    Returns
    -------
    list of Selection
        Of each image, as from `select` without ``tol``.

    Raises
    ------
    TypeError, ValueError
        As `select`; a row is named with its image.
    """
    chosen: dict[int, Selection] = {}
    weights = [None] * len(pictures) if weights is None else weights
    groups: dict[Any, list[int]] = {}
    for i, (rows, k, w) in enumerate(zip(pictures, ks, weights, strict=True)):
        check_features(rows)
        images, n = rows[None], len(rows)
        if _on_host(images) and _cached(images):
            way = _way(images, min(check_k(k), n))
            groups.setdefault((working_dtype(rows), way), []).append(i)
        else:
            groups.setdefault((rows.shape, rows.dtype, rows.device, k, w is None), []).append(i)
    for key, places in groups.items():
        if len(places) > 1 and len(key) == 2:
            found = _ragged(pictures, ks, weights, places, key[1])
            chosen |= dict(zip(places, found, strict=True))
            continue
        for room in in_rooms([pictures[i] for i in places]):
            some = [places[j] for j in room]
            chosen |= dict(zip(some, _stacked(pictures, ks, weights, some), strict=True))
    return [chosen[i] for i in range(len(pictures))]


def _stacked(
    pictures: Sequence[Tensor], ks: Sequence[int], weights: Sequence[Tensor | None], some: list[int]
) -> list[Selection]:
    """`select` of images of one shape as a batch."""
    first = some[0]
    if len(some) == 1:
        return [select(pictures[first], ks[first], weights=weights[first])]
    scales = [w for i in some if (w := weights[i]) is not None]
    batch = torch.stack([pictures[i] for i in some])
    selection = select(batch, ks[first], weights=torch.stack(scales) if scales else None)
    parts = zip(selection.order, selection.residual, selection.count, strict=True)
    return [Selection(*part) for part in parts]


def _ragged(
    pictures: Sequence[Tensor], ks: Sequence[int], weights: Sequence[Tensor | None],
    places: list[int], way: Way,
) -> list[Selection]:  # fmt: skip
    """Images on a CPU in one loop; shorter ones are padded with tokens that cannot be picked."""
    found: dict[int, Selection] = {}
    with torch.autocast("cpu", enabled=False), full_precision():
        for room in in_rooms([pictures[i] for i in places]):
            some = [places[j] for j in room]
            wanted = [min(ks[i], len(pictures[i])) for i in some]
            scales = _checked([weights[i] for i in some], [pictures[i] for i in some])
            names = [f"image {i}, row" for i in some]
            run = _host_run([pictures[i] for i in some], scales, wanted, way, names)
            run.advance(max(wanted), 0.0)
            orders, residuals = run.order(max(wanted)), run.residual(max(wanted))
            for i, k, order, residual in zip(some, wanted, orders, residuals, strict=True):
                found[i] = as_selection(order[:k].clone(), residual[: k + 1].clone(), 0.0)
    return [found[i] for i in places]


def _checked(
    weights: list[Tensor | None], pictures: list[Tensor]
) -> list[Tensor] | list[Tensor | None]:
    """`check_weights` of several images, at once where their shapes are as they must be."""
    given = [w for w, x in zip(weights, pictures, strict=True) if isinstance(w, Tensor)
             and w.shape == x.shape[:1]]  # fmt: skip
    if len(given) < len(pictures) or any(w.is_complex() for w in given):
        return [check_weights(w, x) for w, x in zip(weights, pictures, strict=True)]
    whole = torch.cat(given)
    checked = check_weights(whole, whole[:, None])
    assert checked is not None
    return list(checked.split([len(w) for w in given]))


def _start(
    images: Tensor, weights: Tensor | None, k: int, names: list[str]
) -> _Run | HostRun | FusedRun:
    if _on_host(images):
        return _host_run(images, weights, [k] * len(images), _way(images, k), names)
    if not (usable(images) and _wants_gram(images)):
        return _Run(images, weights, k, names)
    from .fused import FusedRun  # imports Triton

    eps = torch.finfo(working_dtype(images)).eps
    return FusedRun(images, weights, k, names, 1 - _TIE * eps, eps * images.shape[1])


def _host_run(
    images: Tensor | Sequence[Tensor], weights: Tensor | Sequence[Tensor | None] | None,
    ks: list[int], way: Way, names: list[str],
) -> HostRun:  # fmt: skip
    from .host import HostRun  # imports numpy

    prepared = _prepared(images, weights, names)
    eps = torch.finfo(working_dtype(images[0])).eps
    return HostRun(*prepared, ks, way, near=1 - _TIE * eps, floor=eps)


def _on_host(images: Tensor) -> bool:
    return images.device.type == "cpu" and not usable(images)


def _cached(images: Tensor) -> bool:
    """Whether an image's features stay in a CPU's cache, whatever the batch."""
    _, n, d = images.shape
    return n * d * torch.finfo(working_dtype(images)).bits // 8 <= _CACHED_BYTES


def _way(images: Tensor, k: int) -> Way:
    _, n, d = images.shape
    return host_way(n, d, k, working_dtype(images))


def _wants_gram(images: Tensor) -> bool:
    return prefer_gram(images.shape[1], working_dtype(images))


def _chunks(images: Tensor, k: int) -> list[tuple[int, int]]:
    """Images to work on at once: many small ones or many on a GPU, else one, in the cache."""
    total, n, d = images.shape
    entry = torch.finfo(working_dtype(images)).bits // 8
    size = 1
    if _on_host(images):
        if _cached(images):
            wide = n if _way(images, k) == "gram" else d
            size = max(1, _CHUNK_BYTES // (n * (k + wide) * entry))
    else:
        wide = n if _wants_gram(images) else d
        size = max(1, _BATCH_BYTES // (n * (k + wide) * entry))
    return [(b, min(b + size, total)) for b in range(0, total, size)]


def _prepared(
    images: Tensor | Sequence[Tensor], weights: Tensor | Sequence[Tensor | None] | None,
    names: list[str],
) -> tuple[list[Tensor], list[Tensor | None], list[Tensor]]:  # fmt: skip
    """Rows [N, D] of every image, what they are multiplied by, and their weighted norms [N]."""
    dtype = working_dtype(images[0])
    rows: list[Tensor] = []
    scales: list[Tensor | None] = []
    norms: list[Tensor] = []
    for b, name in enumerate(names):
        x, norm = scaled_rows(images[b], dtype, name)
        w = None if weights is None else weights[b]
        if w is not None:
            w = scaled_weights(w, norm)
            norm = norm.double() * w  # the tiniest would vanish in fp32
            if float(w.max()) > _MAX_WEIGHT:
                x, w = x.double().mul(w[:, None]), None
            x = x.to(dtype)
        rows.append(x)
        scales.append(w if w is None else w.to(dtype))
        norms.append(norm)
    return rows, scales, norms


class _Run(Gain):
    """Greedy selection over a few images in step; can stop and go on.

    Products are taken image by image and everything else is elementwise or exact, so that an
    image's numbers do not depend on its company.
    """

    def __init__(self, images: Tensor, weights: Tensor | None, k: int, names: list[str]) -> None:
        dtype, device = working_dtype(images), images.device
        total, n, _ = images.shape
        rows, scales, norms = _prepared(images, weights, names)
        self._norms = torch.stack(norms)
        kind = GramProducts if _wants_gram(images) else ColumnProducts
        self._products: Products | None = kind(rows, scales)
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
            products.write(b, pick[b], out)
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
