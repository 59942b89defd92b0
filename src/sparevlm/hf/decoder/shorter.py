"""Columns of a prompt taken out of the tensors that a decoder layer gets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def kept_columns(keep: Tensor) -> Tensor:
    """Kept columns [B, L'] of a mask [B, L], ascending; -1 in front of shorter rows."""
    counts = keep.sum(1)
    longest = int(counts.max())
    order = torch.sort(keep.long(), dim=1, stable=True).indices  # kept ones last, ascending
    columns = order[:, keep.shape[1] - longest :]
    step = torch.arange(longest, device=keep.device)
    return torch.where(step >= (longest - counts)[:, None], columns, -1)


def gathered(hidden: Tensor, before: Tensor | None, left: Tensor, length: int) -> Tensor:
    """Hidden states [B, L', D] of the columns `left` [B, L'], of those of `before` [B, M].

    Both are -1 where a row is padded, of a prompt of `length` columns; None: all.
    """
    inside = left.clamp(min=0)
    if before is not None:  # where each lies in the hidden states
        places = torch.arange(before.shape[1], device=left.device).expand_as(before)
        inside = spread(before, places, length).gather(1, inside)
    return hidden.gather(1, inside[..., None].expand(-1, -1, hidden.shape[-1]))


def spread(columns: Tensor, values: Tensor, length: int) -> Tensor:
    """Values [B, L', ..] at their columns [B, L'] of [B, length, ..]; zero elsewhere."""
    rest = values.shape[2:]
    whole = values.new_zeros(len(columns), length + 1, *rest)  # the last takes the padding
    at = torch.where(columns < 0, length, columns)
    at = at[(...,) + (None,) * len(rest)].expand_as(values)
    return whole.scatter_(1, at, values)[:, :length]


def filled(columns: Tensor, values: Tensor, length: int) -> Tensor:
    """Values [B, L', ..] at their columns [B, L'] of [B, length, ..]; between them the one before.

    So that what is predicted behind a dropped token is predicted from the last one that was left.
    Zero in front of the first.
    """
    steps = torch.arange(columns.shape[1], device=columns.device).expand_as(columns)
    at = spread(columns, steps + 1, length).cummax(1).values  # 0: none yet
    rest = (1,) * (values.ndim - 2)
    index = (at - 1).clamp(min=0).view(*at.shape, *rest).expand(*at.shape, *values.shape[2:])
    return values.gather(1, index).masked_fill((at == 0).view(*at.shape, *rest), 0)


def rotary_of(part: Tensor, columns: Tensor) -> Tensor:
    """Rotary embeddings [.., B or 1, L, C] of columns [B, L']."""
    shape = (*part.shape[:-3], len(columns), *part.shape[-2:])
    at = columns[..., None].expand(*part.shape[:-3], -1, -1, part.shape[-1])
    return part.expand(shape).gather(-2, at)


def shorter_mask(
    mask: Any, left: Tensor | None, columns: Tensor, queries: int, dtype: torch.dtype, flat: bool
) -> Any:
    """The mask of a layer that holds and gets fewer columns.

    Parameters
    ----------
    mask : Tensor [B or 1, 1, Q, K] or [B, K], or None
        Bool, or added to the logits; FlashAttention's; causal without padding.
    left : Tensor [B, Q'] or None
        Columns of this call that the layer gets, -1 for padding; None: all.
    columns : Tensor [B, K']
        Kept columns of the whole prompt, -1 for padding.
    queries : int
        How many columns of this call the layer gets.
    dtype : torch.dtype
        Of a mask that is added.
    flat : bool
        Whether the attention takes masks [B, K] only.

    Raises
    ------
    ValueError
        If the mask is of another kind.
    """
    padded = columns < 0
    if mask is None and not bool(padded.any()):
        return None
    inside = columns.clamp(min=0)
    rows = len(columns)
    if mask is None and flat:
        return (~padded).long()
    if mask is None:
        step = torch.arange(columns.shape[1], device=columns.device)
        begin = columns.shape[1] - queries
        causal = step <= begin + torch.arange(queries, device=columns.device)[:, None]
        return (causal & ~padded[:, None])[:, None]
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise ValueError(
            "this attention implementation's masks cannot be shortened: use sdpa, eager or "
            "flash_attention_2"
        )
    if mask.ndim == 2:
        return mask.gather(1, inside).masked_fill(padded, 0)
    shorter = mask.expand(rows, *mask.shape[1:])
    if left is not None:
        at = left.clamp(min=0)[:, None, :, None]
        shorter = shorter.gather(2, at.expand(-1, shorter.shape[1], -1, shorter.shape[-1]))
    shorter = shorter.gather(3, inside[:, None, None].expand(-1, *shorter.shape[1:3], -1))
    hide = padded[:, None, None].expand_as(shorter)
    if shorter.dtype == torch.bool:
        return shorter & ~hide
    return shorter.masked_fill(hide, torch.finfo(dtype).min)


def visible(mask: Tensor) -> Tensor:
    """Where a mask, bool or added to logits, lets look."""
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
