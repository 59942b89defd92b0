"""Greedy column subset selection: the token that explains the most, again and again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from . import rows as many
from .checks import check_features, check_k, scaled_rows, working_dtype
from .compiled import compiled
from .greedy import Gain, run_greedy
from .products import pairs
from .result import Selection, as_selection, fill_up
from .rows import blocks

_CACHED_BYTES = 2**21  # of Gram matrices of images that run in step
_USED_UP = 1e-6  # of the largest |R r_j|^2, to which downdating is trusted


@torch.no_grad()
def greedy_css(features: Tensor, k: int) -> Selection:
    """Pick k tokens, each the one that lowers the reconstruction error the most.

    With R the residual rows, a step keeps argmax_j |R r_j|^2 / |r_j|^2. Costlier than `select` and
    meant to compare it with. Works in fp64. Up to 4096 tokens (`rows.LARGE`) the Gram matrix of the
    residuals is held, and rewritten at every step; beyond, |R r_j|^2 is downdated as in the paper,
    in O(N k) memory, and computed anew from residuals where rounding has used it up. Either way the
    time grows with N^2 D at least.

    Parameters
    ----------
    features : Tensor [N, D] or [B, N, D], bf16, fp16, fp32 or fp64
        One row a token.
    k : int
        How many tokens to keep; ``k >= N`` keeps all N.

    Returns
    -------
    Selection
        As from `select` without weights and with ``tol`` 0; ties and numerically low rank are
        treated alike.

    Raises
    ------
    TypeError
        If features are no tensor of a floating-point dtype.
    ValueError
        If a shape does not fit, k is no positive integer, or features hold NaN or infinity.

    References
    ----------
    Farahat, Ghodsi and Kamel, An efficient greedy method for unsupervised feature selection,
    ICDM 2011.
    """
    check_features(features)
    if features.ndim == 2:
        return greedy_css_each([features], [k], ["row"])[0]
    names = [f"image {b}, row" for b in range(len(features))]
    selections = greedy_css_each(list(features), [k] * len(features), names)
    order, residual = (
        torch.stack([getattr(one, name) for one in selections]) for name in ("order", "residual")
    )
    return as_selection(order, residual, 0.0)


@torch.no_grad()
def greedy_css_each(
    pictures: Sequence[Tensor], ks: Sequence[int], names: Sequence[str] | None = None
) -> list[Selection]:
    """`greedy_css` of several images [N, D]: the same, in one loop where they are small.

    Images with fewer tokens are padded with some that cannot be picked. `names` is what an error
    calls the rows of each.
    """
    if names is None:
        several = len(pictures) > 1
        names = [f"image {i}, row" if several else "row" for i in range(len(pictures))]
    prepared: list[tuple[Tensor, Tensor]] = []
    wanted: list[int] = []
    for rows, k, name in zip(pictures, ks, names, strict=True):
        check_features(rows)
        wanted.append(min(check_k(k), len(rows)))
        prepared.append(scaled_rows(rows, torch.float64, name))
    selections: dict[int, Selection] = {}
    groups: dict[torch.device, list[int]] = {}
    for i, (rows, _) in enumerate(prepared):
        groups.setdefault(rows.device, []).append(i)
    for device, places in groups.items():
        with torch.autocast(device.type, enabled=False):
            for room in many.rooms([8 * len(prepared[i][0]) ** 2 for i in places], _CACHED_BYTES):
                some = [places[j] for j in room]
                found = _greedy([prepared[i] for i in some], [wanted[i] for i in some])
                for i, (order, residual) in zip(some, found, strict=True):
                    residual = residual.to(working_dtype(pictures[i]))
                    selections[i] = as_selection(order, residual, 0.0)
    return [selections[i] for i in range(len(pictures))]


class _Explained(Gain):
    """Value: |R r_j|^2 / |r_j|^2, how much of the energy a pick of j takes away.

    `rows` are those of images that run in step; what is large is done image by image.
    """

    def __init__(self, rows: list[Tensor], k: int) -> None:
        eps = torch.finfo(torch.float64).eps
        # Of the residual rows. Downdating |R r_j|^2 instead, as the paper does, is cheaper but
        # loses it to rounding once |r_j|^2 has fallen by 1e8.
        self._grams = [pairs(x) for x in rows]
        lengths = rows[0].new_tensor([len(x) for x in rows])[:, None]
        self._read()
        self._floor = eps * lengths * self._energy.amax(1, keepdim=True)
        self.near = 1 - 4 * eps
        self.left = self._energy.sum(1).repeat(k + 1, 1)
        self.rank = torch.zeros(len(rows), 1, dtype=torch.int64, device=lengths.device)
        self._measure()

    def _read(self) -> None:
        """|r_j|^2 and |R r_j|, as they are now."""
        self._energy = _padded([gram.diagonal() for gram in self._grams])
        self._norms = _padded([torch.linalg.vector_norm(gram, dim=1) for gram in self._grams])

    def _measure(self) -> None:
        free = self._energy > self._floor
        # Below the floor the quotient is noise.
        gain = self._norms.square() / torch.where(free, self._energy, 1)
        self.value = torch.where(free, gain, -torch.inf)

    def finished(self, t: int, best: Tensor) -> bool:
        """See `Gain`: nothing is left to explain."""
        return bool(best.isinf().all())

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        """See `Gain`: project the pick out of all residuals."""
        own = self._energy.gather(1, pick)
        if len(self._grams) == 1:  # else it would have finished
            self.rank += 1
        else:
            alive = ~best.isinf()
            self.rank += alive
            own = torch.where(alive, own, torch.inf)
        own = own.sqrt()
        for gram, at, size in zip(self._grams, pick, own, strict=True):
            new = gram[at[0]] / size  # nothing where an image is exhausted
            gram.addr_(new, new, alpha=-1)
            gram.diagonal().index_fill_(0, at, 0)
        self._read()
        self.left[t + 1 :] = self._energy.clamp(min=0).sum(1)
        self._measure()


def _padded(parts: list[Tensor]) -> Tensor:
    """Rows [B, N] of vectors, zeros behind the shorter ones."""
    alike = all(len(part) == len(parts[0]) for part in parts)
    return torch.stack(parts) if alike else pad_sequence(parts, batch_first=True)


class _Downdated(Gain):
    """The same value without the Gram matrix: |R r_j|^2 and |r_j|^2 are downdated (Farahat)."""

    def __init__(self, rows: Tensor, k: int) -> None:
        self.near = 1 - 4 * torch.finfo(torch.float64).eps
        self._k = k
        energy = rows.square().sum(1)
        self._floor = torch.finfo(torch.float64).eps * len(rows) * energy.max()
        self.left = energy.sum().repeat(k + 1, 1)
        self.rank = torch.zeros(1, 1, dtype=torch.int64, device=rows.device)
        self._picked = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        self._begin(rows)

    def _begin(self, rows: Tensor) -> None:
        """From residual rows [N, D] on, exactly."""
        self._rows, self._since = rows, torch.zeros_like(self._picked)
        self._new = rows.new_zeros(len(rows), self._k)  # columns of the residuals' factor
        self._count = 0
        self._energy = rows.square().sum(1).masked_fill(self._picked, 0)
        gains = [(rows[some] @ rows.T).square().sum(1) for some in blocks(len(rows))]
        self._gain = torch.cat(gains)
        self._lowest = self._gain.max() * _USED_UP
        self._measure()

    def _measure(self) -> None:
        free = self._energy > self._floor
        value = self._gain.clamp(min=0) / torch.where(free, self._energy, 1)
        self.value = torch.where(free, value, -torch.inf)[None]

    def finished(self, t: int, best: Tensor) -> bool:
        """See `Gain`: nothing is left to explain."""
        return bool(best.isinf())

    def take(self, t: int, pick: Tensor, best: Tensor) -> None:
        """See `Gain`: project the pick out of all residuals."""
        p, before = int(pick), self._new[:, : self._count]
        column = self._rows @ self._rows[p] - before @ before[p]
        new = column / column[p].clamp(min=self._floor).sqrt()
        along = self._rows @ (self._rows.T @ new) - before @ (before.T @ new)
        self._gain += new * (new * new.square().sum() - 2 * along)
        self._energy -= new.square()
        self._picked[p] = self._since[p] = True
        self._energy[self._picked] = 0
        self._new[:, self._count] = new
        self._count += 1
        self.rank += 1
        self.left[t + 1 :] = self._energy.clamp(min=0).sum()
        if bool(self._gain.masked_fill(self._picked, 0).max() < self._lowest):
            self._begin(self._residuals())
        else:
            self._measure()

    def _residuals(self) -> Tensor:
        picked = self._rows[self._since]
        basis = torch.linalg.qr(picked.T).Q
        once = self._rows - (self._rows @ basis) @ basis.T
        return once - (once @ basis) @ basis.T  # twice is enough


def _greedy(images: list[tuple[Tensor, Tensor]], ks: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Order [k] and relative residual [k + 1] of images, given as `scaled_rows` gives them."""
    k, rows = max(ks), [x for x, _ in images]
    if rows[0].device.type == "cpu" and len(rows[0]) <= many.LARGE and compiled():
        return [_compiled_greedy(x, norm, k) for (x, norm), k in zip(images, ks, strict=True)]
    if len(rows) == 1 and len(rows[0]) > many.LARGE:
        gain: _Downdated | _Explained = _Downdated(rows[0], k)
    else:
        gain = _Explained(rows, k)
    order = torch.zeros(k, len(rows), 1, dtype=torch.int64, device=rows[0].device)
    run_greedy(gain, order, 0, k)
    norms = pad_sequence([norm for _, norm in images], batch_first=True, padding_value=-2.0)
    orders = order[..., 0].T.contiguous()
    if bool((gain.rank < k).any()):
        orders = fill_up(orders, gain.rank, norms)
    left = gain.left / torch.where(gain.left[0] > 0, gain.left[0], 1)
    return [(orders[b, :k], left[: k + 1, b].contiguous()) for b, k in enumerate(ks)]


def _compiled_greedy(rows: Tensor, norms: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`_greedy` of one image by a compiled loop, which goes through its Gram matrix once a step."""
    from .loops_greedy_css import explain  # imports numba

    eps = torch.finfo(torch.float64).eps
    order, left = torch.zeros(k, dtype=torch.int64), rows.new_empty(k + 1)
    gram = pairs(rows)
    rank = explain(gram.numpy(), order.numpy(), left.numpy(), eps * len(rows), 1 - 4 * eps)
    if rank < k:
        order = fill_up(order[None], torch.tensor([[rank]]), norms[None])[0]
    return order, left / (left[0] if left[0] > 0 else 1)
