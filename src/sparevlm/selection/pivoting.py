"""Pivoted selection: the row farthest from the span of those already kept, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeGuard

import torch
from torch import Tensor

from sparevlm.kernels import usable

from .checks import (
    can_look,
    check_features,
    check_k,
    check_tol,
    check_weights,
    scaled_rows_each,
    scaled_weights_each,
    working_dtype,
)
from .compiled import compiled
from .deeper import energies, remaining_gram, residual_rows, weighted_gram
from .products import Way, full_precision, host_way, prefer_gram
from .result import Selection, as_selection
from .rows import in_rooms
from .stages import Bounds, Deeper, Run, Stages, exhausted, trusted

_CACHED_BYTES = 3 * 2**20  # of the features of an image: what stays in a core's cache
_CHUNK_BYTES = 2**26  # of Gram matrices and factors of a batch of such
_BATCH_BYTES = 2**30  # Gram matrices or factors that one chunk of a batch may hold on a GPU
_MAX_WEIGHT = 2.0**20  # beyond, rows that count are so small that their products may underflow
_TIE = 4  # roundings of the largest value within which values are ties


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

    A downdated value is wrong by a few eps of its row's initial one. Where the best that is left is
    less than 10 sqrt(eps) of the largest initial value of a token not kept yet, what the kept ones
    leave of all is computed anew in fp64, and the selection goes on from there with correct digits
    (`python -m bench.precision`: how often fp32 keeps what fp64 keeps). Once the best is below
    eps^2 * N of the largest initial value, which rounding of the features alone may leave, the rest
    are the largest w |x| not yet kept, and the residual stays flat. While a CUDA graph is captured
    that begins at eps * N.

    References
    ----------
    SPARE, arXiv 2606.18681. Businger and Golub, Linear least squares solutions by Householder
    transformations, Numer. Math. 7, 1965. Drmac and Bujanovic, On the failure of
    rank-revealing QR factorization software, ACM Trans. Math. Softw. 35, 2008 (norms anew).
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
    names = [f"image {b}, row" for b in range(len(images))] if features.ndim == 3 else ["row"]
    order, residual = _selected(images, k, w, names, tol)
    if features.ndim == 2:
        order, residual = order[0], residual[0]
    return as_selection(order, residual, tol)


def _selected(
    images: Tensor, k: int, weights: Tensor | None, names: list[str], tol: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Order and residual of images [B, N, D] with weights [B, N] that were checked."""
    runs: list[Stages] = []
    # Else products may be taken in bf16.
    with torch.autocast(images.device.type, enabled=False), full_precision():
        for first, last in _chunks(images, k):
            chunk = weights[first:last] if weights is not None else None
            some = names[first:last]
            run = _start(images[first:last], chunk, [k] * (last - first), some)
            run.advance(k, tol)
            if tol == 0:
                run.release()  # a later chunk may need the memory
            runs.append(run)
        for run in runs:
            run.settle()
        steps = k
        if tol > 0:
            steps = min(k, max(run.steps for run in runs))
            for run in runs:
                run.advance(steps, 0.0)  # others of the batch may have needed more
                run.settle()

    orders, residuals = [run.order(steps) for run in runs], [run.residual(steps) for run in runs]
    if len(runs) == 1:
        return orders[0], residuals[0]
    return torch.cat(orders), torch.cat(residuals)


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
    several = len(pictures) > 1
    names = [f"image {i}, row" if several else "row" for i in range(len(pictures))]
    groups: dict[Any, list[int]] = {}
    for i, (rows, k, w) in enumerate(zip(pictures, ks, weights, strict=True)):
        check_features(rows)
        images, n = rows[None], len(rows)
        if _on_host(images) and _cached(images):
            way = _way(images, min(check_k(k), n))
            usual = _usual(rows, w, min(k, n)) if way == "exact" else None
            if usual is not None:
                chosen[i] = usual
                continue
            groups.setdefault((working_dtype(rows), way), []).append(i)
        else:
            groups.setdefault((rows.shape, rows.dtype, rows.device, k, w is None), []).append(i)
    for key, places in groups.items():
        if len(key) == 2:
            found = _ragged(pictures, ks, weights, places, names, key[1])
            chosen |= dict(zip(places, found, strict=True))
            continue
        for room in in_rooms([pictures[i] for i in places]):
            some = [places[j] for j in room]
            chosen |= dict(zip(some, _stacked(pictures, ks, weights, some, names), strict=True))
    return [chosen[i] for i in range(len(pictures))]


def _usual(rows: Tensor, weights: Tensor | None, k: int) -> Selection | None:
    """A picture whose products are taken in float64, if nothing is odd about it."""
    if weights is not None and not _plain(weights, rows):
        return None  # an error says what is wrong, or what is wanted is brought into this form
    from .host_usual import select_usual  # imports numba

    dtype = working_dtype(rows)
    bounds = Bounds(_near(dtype), trusted(torch.float64), [exhausted(len(rows), dtype)])
    return select_usual(rows.to(dtype), weights, k, bounds)


def _plain(weights: Any, rows: Tensor) -> TypeGuard[Tensor]:
    """Whether weights are real and one a row, where the rows are; no value is looked at."""
    real = isinstance(weights, Tensor) and not weights.is_complex()
    return real and weights.device == rows.device and weights.shape == rows.shape[:1]


def _stacked(
    pictures: Sequence[Tensor], ks: Sequence[int], weights: Sequence[Tensor | None],
    some: list[int], names: list[str],
) -> list[Selection]:  # fmt: skip
    """`select` of images of one shape as a batch."""
    first = pictures[some[0]]
    batch = torch.stack([pictures[i] for i in some]) if len(some) > 1 else first[None]
    k = min(check_k(ks[some[0]]), len(first))
    scales = _as_batch(_checked([weights[i] for i in some], [pictures[i] for i in some]))
    if torch.compiler.is_compiling():
        order, residual = compiled_select(batch, k, scales)
    else:
        order, residual = _selected(batch, k, scales, [names[i] for i in some])
    return [as_selection(*found, 0.0) for found in zip(order, residual, strict=True)]


def _ragged(
    pictures: Sequence[Tensor], ks: Sequence[int], weights: Sequence[Tensor | None],
    places: list[int], names: list[str], way: Way,
) -> list[Selection]:  # fmt: skip
    """Images on a CPU in one loop; shorter ones are padded with tokens that cannot be picked."""
    found: dict[int, Selection] = {}
    with torch.autocast("cpu", enabled=False), full_precision():
        for room in in_rooms([pictures[i] for i in places]):
            some = [places[j] for j in room]
            wanted = [min(ks[i], len(pictures[i])) for i in some]
            scales = _checked([weights[i] for i in some], [pictures[i] for i in some])
            called = [names[i] for i in some]
            run = _start([pictures[i] for i in some], scales, wanted, called, way=way)
            run.advance(max(wanted), 0.0)
            run.settle()
            orders, residuals = run.order(max(wanted)), run.residual(max(wanted))
            counts = torch.tensor(wanted)
            for i, k, order, residual, count in zip(
                some, wanted, orders, residuals, counts, strict=True
            ):
                found[i] = Selection(order[:k].clone(), residual[: k + 1].clone(), count)
    return [found[i] for i in places]


def _checked(
    weights: list[Tensor | None], pictures: list[Tensor]
) -> list[Tensor] | list[Tensor | None]:
    """`check_weights` of several images, at once where their shapes are as they must be."""
    given = [w for w, x in zip(weights, pictures, strict=True) if _plain(w, x)]
    if len(given) == 1 or len(given) < len(pictures):
        return [check_weights(w, x) for w, x in zip(weights, pictures, strict=True)]
    whole = torch.cat(given)
    checked = check_weights(whole, whole[:, None])
    assert checked is not None
    return list(checked.split([len(w) for w in given]))


def _start(
    images: Tensor | Sequence[Tensor], weights: Tensor | Sequence[Tensor | None] | None,
    ks: list[int], names: list[str], *, way: Way | None = None,
    floors: Sequence[float] | None = None,
) -> Stages:  # fmt: skip
    """Stages over images; those on a CPU may differ in length."""
    first, dtype = images[0][None], working_dtype(images[0])
    host, looks = _on_host(first), can_look(first)
    if floors is None:
        # Where nobody may look, no further stage can follow: what is blurred is left out.
        eps = torch.finfo(dtype).eps
        floors = [exhausted(len(x), dtype) if looks else eps * len(x) for x in images]
    if host and way is None:
        way = _way(first, max(ks))
    trust = trusted(torch.float64 if way == "exact" else dtype) if looks else 0.0
    bounds = Bounds(_near(dtype), trust, floors)

    def deepen(places: list[int], kept: list[Tensor], left: list[int]) -> Deeper:
        some = [None if weights is None else weights[b] for b in places]
        few = names[: len(places)]
        rows, scales, _ = _prepared([images[b] for b in places], some, few)
        floor = [bounds.floor[b] for b in places]
        if way == "gram" and dtype == torch.float32:
            grams = [weighted_gram(x, w) for x, w in zip(rows, scales, strict=True)]
            return _deeper_gram(grams, kept, left, floor, bounds.near)
        after = [residual_rows(x, order) for x, order in zip(rows, kept, strict=True)]
        before = [energies(x, w) for x, w in zip(rows, scales, strict=True)]
        now = [energies(x, w) for x, w in zip(after, scales, strict=True)]
        exact = [None if w is None else w.double() for w in scales]
        stages = _start(after, exact, left, few, floors=_shares(floor, before, now, "max"))
        return Deeper(stages, _shares([1.0] * len(left), now, before, "sum"))

    return Stages(_run(images, weights, ks, names, bounds, way), ks, deepen)


def _deeper_gram(
    grams: list[Tensor], kept: list[Tensor], ks: list[int], floors: list[float], near: float
) -> Deeper:
    """What goes on with images of which all products are at hand, in float64."""
    after = [remaining_gram(gram, order) for gram, order in zip(grams, kept, strict=True)]
    before, now = [g.diagonal() for g in grams], [g.diagonal() for g in after]
    floors = _shares(floors, before, now, "max")
    bounds = Bounds(near, trusted(torch.float64), floors)

    def deepen(places: list[int], kept: list[Tensor], left: list[int]) -> Deeper:
        some = [after[b] for b in places]
        return _deeper_gram(some, kept, left, [floors[b] for b in places], near)

    run = _host_run(after, [None] * len(ks), [x.sqrt() for x in now], ks, "given", bounds)
    return Deeper(Stages(run, ks, deepen), _shares([1.0] * len(ks), now, before, "sum"))


def _shares(
    times: Sequence[float], of: list[Tensor], to: list[Tensor], how: Literal["max", "sum"]
) -> list[float]:
    """How much larger the largest energies, or all, of some images are than others, times that."""
    found = []
    for x, a, b in zip(times, of, to, strict=True):
        whole = float(getattr(b, how)())
        found.append(x * float(getattr(a, how)()) / whole if whole > 0 else 0.0)
    return found


def _run(
    images: Tensor | Sequence[Tensor], weights: Tensor | Sequence[Tensor | None] | None,
    ks: list[int], names: list[str], bounds: Bounds, way: Way | None,
) -> Run:  # fmt: skip
    first, k = images[0][None], max(ks)
    if way is not None:
        return _host_run(*_prepared(images, weights, names), ks, way, bounds)
    if not (usable(first) and _wants_gram(first)):
        from .device import DeviceRun

        return DeviceRun(*_prepared(images, weights, names), k, _wants_gram(first), bounds)
    from .fused import FusedRun  # imports Triton

    batch = images if isinstance(images, Tensor) else torch.stack(list(images))
    scales = None
    if weights is not None:
        scales = weights if isinstance(weights, Tensor) else _as_batch(weights)
    return FusedRun(batch, scales, k, names, bounds)


def _host_run(
    rows: list[Tensor], weights: list[Tensor | None], norms: list[Tensor], ks: list[int],
    way: Way, bounds: Bounds,
) -> Run:  # fmt: skip
    from .host import HostRun  # imports numpy

    if way != "columns" and compiled():
        from .host_compiled import HostCompiled  # imports numba

        return HostCompiled(rows, weights, norms, ks, way, bounds)
    from .host_one import HostOne

    kind = HostOne if len(rows) == 1 else HostRun
    return kind(rows, weights, norms, ks, way, bounds)


def _as_batch(weights: Sequence[Tensor | None]) -> Tensor | None:
    given = [w for w in weights if w is not None]
    if len(given) == 1:
        return given[0][None]
    return torch.stack(given) if given else None


def _near(dtype: torch.dtype) -> float:
    return 1 - _TIE * float(torch.finfo(dtype).eps)


def _on_host(images: Tensor) -> bool:
    return images.device.type == "cpu" and not usable(images)


def _cached(images: Tensor) -> bool:
    """Whether an image's features stay in a CPU's cache, whatever the batch."""
    _, n, d = images.shape
    return n * d * torch.finfo(working_dtype(images)).bits // 8 <= _CACHED_BYTES


def _way(images: Tensor, k: int) -> Way:
    _, n, d = images.shape
    return host_way(n, d, k, working_dtype(images), compiled=compiled())


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
    rows, norms = scaled_rows_each([images[b] for b in range(len(names))], dtype, names)
    scales: list[Tensor | None] = [None] * len(rows)
    given = {
        b: w for b in range(len(rows)) if weights is not None and (w := weights[b]) is not None
    }
    if given:
        # In float64, since the tiniest would vanish in fp32.
        found = scaled_weights_each(list(given.values()), [norms[b] for b in given])
        for b, w, size, heaviest in zip(given, *found, strict=True):
            norms[b] = size
            if heaviest > _MAX_WEIGHT:
                rows[b] = rows[b].double().mul(w[:, None]).to(dtype)
            else:
                scales[b] = w.to(dtype)
    return rows, scales, norms
