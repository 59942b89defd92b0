"""Dropping columns from the tensors of a prompt: one index for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["left", "right"]
Alignment = Literal["left", "right", "behind"]


@dataclass(frozen=True, eq=False)
class Columns:
    """Which columns [B, L'] of a prompt [B, L] are left, and which of them are real.

    Attributes
    ----------
    index : Tensor [B, L'], int64
    real : Tensor [B, L'], bool, or None
        False where a row was padded to the common width; None: nowhere.
    """

    index: Tensor
    real: Tensor | None

    def to(self, device: torch.device) -> Columns:
        """The same on a device that need not be waited for."""
        real = None if self.real is None else self.real.to(device, non_blocking=True)
        return Columns(self.index.to(device, non_blocking=True), real)

    def before_next(self) -> Columns:
        """For each column the one in front of the next that is left; for the last itself."""
        following = torch.cat([self.index[:, 1:] - 1, self.index[:, -1:]], 1)
        if self.real is None:
            return Columns(following, None)
        return Columns(torch.where(self.real, following.clamp(min=0), self.index), self.real)

    def take(self, values: Tensor, fill: int) -> Tensor:
        """Values [B or 1, L] -> [B, L'], with `fill` where a row was padded; [A, B, L] too."""
        if values.ndim == 3:
            return torch.stack([self.take(axis, fill) for axis in values])
        taken = values.expand(len(self.index), -1).gather(1, self.index)
        return taken if self.real is None else taken.masked_fill(~self.real, fill)


def remaining(keep: Tensor, mask: Tensor | None, side: Alignment) -> Columns:
    """Columns kept of each row, its old padding removed and rows padded again to one width.

    Parameters
    ----------
    keep : Tensor [B, L], bool
        False for what is dropped.
    mask : Tensor [B, L] or None
        The attention mask: zeros before the first and after the last one are padding.
    side : "left", "right" or "behind"
        Where short rows are padded; "behind": on the left, and padding behind a row stays, so that
        the last columns are those that they were.
    """
    real = keep
    if mask is not None:
        real = keep & ((mask != 0).cumsum(1) > 0 if side == "behind" else spanned(mask))
    lengths = real.sum(1)
    width = int(lengths.max())
    # A stable sort moves the real columns of a row together and leaves their order.
    if side != "right":
        index = real.long().argsort(dim=1, stable=True)[:, real.shape[1] - width :]
    else:
        index = (~real).long().argsort(dim=1, stable=True)[:, :width]
    places = real.gather(1, index)
    return Columns(index, None if bool(places.all()) else places)


def spanned(mask: Tensor) -> Tensor:
    """True [B, L] from the first to the last column of each row that a mask shows."""
    seen = mask != 0
    return (seen.cumsum(1) > 0) & (seen.flip(1).cumsum(1).flip(1) > 0)


def padding_side(mask: Tensor | None) -> Alignment:
    """Where a mask [B, L] pads: "behind" if it does so on the left at all, else "right"."""
    if mask is not None and bool((mask[:, 0] == 0).any()):
        return "behind"
    return "right"


def default_positions(ids: Tensor, mask: Tensor | None, start: int | Tensor = 0) -> Tensor:
    """Positions [B, L] of an unpruned prompt: counted along the mask, or along the columns."""
    if mask is None:
        columns = torch.arange(ids.shape[1], device=ids.device)
        return (columns + start).expand(len(ids), -1)
    positions = (mask != 0).long().cumsum(1) - 1
    return positions.clamp(min=0) + start
