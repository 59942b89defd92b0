"""Putting a prompt together again after columns were dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import logits
from sparevlm.hf.gather import (
    Alignment,
    Columns,
    Side,
    default_positions,
    padding_side,
    remaining,
    spanned,
)
from sparevlm.hf.turns import Memory, Prefix

_PER_TOKEN = {"labels": -100, "shift_labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}


def shorten(
    kwargs: dict[str, Any],
    keep: Tensor,
    prefix: Prefix | None,
    *,
    original: bool,
    side: Side | None,
    pad: int,
    axes: Tensor | None = None,
) -> tuple[dict[str, Any], Memory, Tensor]:
    """Drop columns from every per-token argument.

    Parameters
    ----------
    kwargs : dict
        Arguments of the call; not changed.
    keep : Tensor [B, L], bool
        Columns of `input_ids` that stay; on the CPU.
    prefix : Prefix or None
        What the cache holds; goes in front as it was.
    original : bool
        Positions of the full prompt instead of renumbered ones.
    side : "left", "right" or None
        Where rows of different length are padded. None: where the mask does; on the left, with what
        is padded behind a row left there, if it does so on both sides or the last columns are asked
        for: these are then the same columns in all rows.
    pad : int
        Token id to pad with.
    axes : Tensor [A, B, L - cached] or None
        Positions of the full prompt where they have several axes; needs `original`.

    Returns
    -------
    kwargs : dict
        With shorter tensors.
    memory : Memory
        To go on with the conversation.
    columns : Tensor [B, L'], int64
        Column of `input_ids` that each one of what is not cached is; -1 where a row was padded. On
        the CPU.
    """
    ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
    start = prefix.columns if prefix else 0
    ids, keep = ids[:, start:], keep[:, start:]
    if mask is not None:
        mask = mask[:, mask.shape[1] - ids.shape[1] :]
    seen = None if mask is None else mask.cpu()
    last = logits.asks(kwargs) or _one_beginning(kwargs.get("labels"), keep, start)
    chosen = _columns(keep, seen, prefix, side, last=last)
    columns = chosen.index if chosen.real is None else chosen.index.where(chosen.real, -1)
    kept = chosen.to(ids.device)
    new_ids = kept.take(ids, pad)
    new_mask = None
    if mask is not None or kept.real is not None:
        new_mask = kept.take(torch.ones_like(ids) if mask is None else mask, 0)

    # Stock forward counts columns, holes of the mask among them.
    counted = spanned(mask).long() if side is None and mask is not None else mask
    base = _positions(kwargs.get("position_ids"), ids, counted, prefix, axes)
    before = prefix.dropped if prefix else torch.zeros_like(ids[:, 0])
    lost = ~keep if seen is None else ~keep & (seen != 0)  # hidden ones have no position
    gone = lost.long().to(ids.device, non_blocking=True)
    positions = None
    if original:
        positions = kept.take(base, 0)
    elif kwargs.get("position_ids") is not None or (
        side is None
        and (bool(prefix.dropped.any()) if prefix else mask is not None or kept.real is not None)
    ):
        # Counted along the mask, as `generate` does; stock forward would count padding.
        positions = kept.take(base - before[:, None] - (gone.cumsum(1) - gone), 0)
    if prefix is None and original and new_mask is None:
        # Positions with gaps, and neither mask nor cache, are read as packed sequences.
        new_mask = torch.ones_like(new_ids)
    whole_mask, whole_positions = _behind(prefix, new_ids, new_mask, positions)
    at_once = prefix is None or bool(prefix.columns)  # ids are all, not the new ones alone
    shorter = {
        **{name: value for name, value in kwargs.items() if name != "position_ids"},
        **_per_token(kwargs, kept, ids.shape[1], prefix),
        **(
            {logits.NAME: logits.translated(kwargs[logits.NAME], columns, ids.shape[1])}
            if logits.asks(kwargs)
            else {}
        ),
        "input_ids": new_ids if prefix is None or not at_once else _after(prefix.kept, new_ids),
        **({} if whole_mask is None else {"attention_mask": whole_mask}),
        **(
            {} if positions is None else {"position_ids": whole_positions if at_once else positions}
        ),
    }
    memory = Memory(
        ids=ids if prefix is None else _after(prefix.told, ids),
        mask=_told_mask(prefix, ids, mask),
        kept_ids=new_ids if prefix is None else _after(prefix.kept, new_ids),
        kept_mask=whole_mask,
        kept_positions=whole_positions if original else None,
        dropped=before + gone.sum(1),
        next_position=(base if axes is None else base.amax(0)).max(1).values + 1,
        original=original,
    )
    return shorter, memory, columns + columns.ge(0) * start


def _told_mask(prefix: Prefix | None, ids: Tensor, mask: Tensor | None) -> Tensor | None:
    """The user's mask of all that was told."""
    if prefix is None or (mask is None and prefix.told_mask is None):
        return mask
    earlier = torch.ones_like(prefix.told) if prefix.told_mask is None else prefix.told_mask
    new = torch.ones_like(ids) if mask is None else mask
    return _after(earlier.to(new), new)


def _after(earlier: Tensor, new: Tensor) -> Tensor:
    return torch.cat([earlier, new], -1)


def _positions(
    positions: Tensor | None,
    ids: Tensor,
    mask: Tensor | None,
    prefix: Prefix | None,
    axes: Tensor | None,
) -> Tensor:
    """Positions of the user's prompt, of what is not cached: [B, L] or [A, B, L]."""
    rows, length = ids.shape
    if positions is not None:
        positions = positions[..., positions.shape[-1] - length :]
    if axes is not None:
        if positions is None:
            return axes
        own = positions if positions.ndim == 2 else positions[-len(axes) :]  # without that of text
        return own.expand(len(axes), rows, -1)
    if positions is not None:
        return positions.expand(rows, -1)
    return default_positions(ids, mask, prefix.start[:, None] if prefix else 0)


def _per_token(
    kwargs: dict[str, Any], kept: Columns, length: int, prefix: Prefix | None
) -> dict[str, Tensor]:
    """Labels and types of what stays."""
    shorter = {}
    for name, fill in _PER_TOKEN.items():
        if name not in kwargs:
            continue
        values = kwargs[name][:, kwargs[name].shape[1] - length :]
        shorter[name] = (kept.before_next() if name == "shift_labels" else kept).take(values, fill)
        # Gemma 4 and Molmo 2 read types from the start of the sequence; others cut them there.
        if prefix is not None and prefix.columns and "labels" not in name:
            words = torch.zeros_like(prefix.kept).to(values.dtype)
            shorter[name] = _after(words, shorter[name])
    return shorter


def _behind(
    prefix: Prefix | None, new_ids: Tensor, mask: Tensor | None, positions: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """Mask and positions of what stays, behind those of what is cached."""
    if prefix is None:
        return mask, positions
    if positions is not None and prefix.positions is not None:
        positions = _after(prefix.positions.expand(*positions.shape[:-1], -1), positions)
    if mask is not None or prefix.mask is not None:
        held = torch.ones_like(prefix.kept) if prefix.mask is None else prefix.mask
        tail = torch.ones_like(new_ids) if mask is None else mask
        mask = _after(held.to(tail.dtype), tail)
    return mask, positions


def _columns(
    keep: Tensor, mask: Tensor | None, prefix: Prefix | None, side: Side | None, *, last: bool
) -> Columns:
    """`last`: the last columns must be the same in all rows."""
    if prefix is not None and bool(keep.all()):
        every = torch.arange(keep.shape[1], device=keep.device)
        return Columns(every.expand(len(keep), -1), None)
    where: Alignment = side or ("behind" if last else padding_side(mask))
    if prefix is not None and where == "right":
        where = "left" if side else "behind"  # next to what is cached
    return remaining(keep, mask, where)


def _one_beginning(labels: Tensor | None, keep: Tensor, start: int) -> bool:
    """Whether labels begin in one column of all rows, behind all pictures: completions do."""
    if labels is None:
        return False
    told = (labels[:, start:] != -100).cpu()
    first = told.long().argmax(1)
    behind = (~keep).long().cumsum(1)[:, -1:] == (~keep).long().cumsum(1).gather(1, first[:, None])
    return bool(told.any(1).all() and (first == first[0]).all() and behind.all())
