"""Putting a prompt together again after columns were dropped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.hf.gather import Columns, Side, default_positions, padding_side, remaining
from sparevlm.hf.turns import Memory, Prefix

_PER_TOKEN = {"labels": -100, "token_type_ids": 0, "mm_token_type_ids": 0}


def shorten(
    kwargs: dict[str, Any],
    keep: Tensor,
    prefix: Prefix | None,
    *,
    original: bool,
    side: Side | None,
    pad: int,
    axes: Tensor | None = None,
) -> tuple[dict[str, Any], Memory]:
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
        Where rows of different length are padded; None: where the mask does.
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
    """
    ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
    start = prefix.columns if prefix else 0
    ids, keep = ids[:, start:], keep[:, start:]
    rows, length = ids.shape
    if mask is not None:
        mask = mask[:, mask.shape[1] - length :]
    seen = None if mask is None else mask.cpu()
    kept = _columns(keep, seen, prefix, side).to(ids.device)

    out = {name: value for name, value in kwargs.items() if name != "position_ids"}
    out["input_ids"] = new_ids = kept.take(ids, pad)
    for name, fill in _PER_TOKEN.items():
        if name in out:
            out[name] = kept.take(out[name][:, out[name].shape[1] - length :], fill)
    new_mask = None
    if mask is not None or kept.real is not None:
        new_mask = kept.take(torch.ones_like(ids) if mask is None else mask, 0)

    base = default_positions(ids, mask, prefix.start[:, None] if prefix else 0)
    given = kwargs.get("position_ids")
    if axes is not None:
        base = axes if given is None else given[-len(axes) :, :, given.shape[-1] - length :]
    elif given is not None:
        base = given[..., given.shape[-1] - length :].expand(rows, -1)
    before = prefix.dropped if prefix else torch.zeros_like(ids[:, 0])
    gone = (~keep).long().to(ids.device, non_blocking=True)
    positions = None
    if original:
        positions = kept.take(base, 0)
    elif given is not None or (
        side is None and (bool(prefix.dropped.any()) if prefix else mask is not None)
    ):
        # Counted along the mask, as `generate` does; stock forward would count padding.
        positions = kept.take(base - before[:, None] - (gone.cumsum(1) - gone), 0)

    all_ids, all_kept, all_positions = ids, new_ids, positions
    if prefix is not None:
        if prefix.columns:
            out["input_ids"] = torch.cat([prefix.kept, new_ids], 1)
            # Gemma 4 and Molmo 2 read types from the start of the sequence; others cut them there.
            for name in ("token_type_ids", "mm_token_type_ids"):
                if name in out:
                    told = torch.zeros_like(prefix.kept).to(out[name].dtype)
                    out[name] = torch.cat([told, out[name]], 1)
        if positions is not None and prefix.positions is not None:
            earlier = prefix.positions.expand(*positions.shape[:-1], -1)
            all_positions = torch.cat([earlier, positions], -1)
            positions = all_positions if prefix.columns else positions
        if new_mask is not None or prefix.mask is not None:
            held = torch.ones_like(prefix.kept) if prefix.mask is None else prefix.mask
            tail = torch.ones_like(new_ids) if new_mask is None else new_mask
            new_mask = torch.cat([held.to(tail.dtype), tail], 1)
        all_ids = torch.cat([prefix.told, ids], 1)
        all_kept = torch.cat([prefix.kept, new_ids], 1)
    elif original and new_mask is None:
        # Positions with gaps, and neither mask nor cache, are read as packed sequences.
        new_mask = torch.ones_like(new_ids)
    if new_mask is not None:
        out["attention_mask"] = new_mask
    if positions is not None:
        out["position_ids"] = positions
    memory = Memory(
        ids=all_ids,
        kept_ids=all_kept,
        kept_mask=new_mask,
        kept_positions=all_positions if original else None,
        dropped=before + gone.sum(1),
        next_position=(base if axes is None else base.amax(0)).max(1).values + 1,
        original=original,
    )
    return out, memory


def _columns(
    keep: Tensor, mask: Tensor | None, prefix: Prefix | None, side: Side | None
) -> Columns:
    if prefix is not None:
        if bool(keep.all()):
            every = torch.arange(keep.shape[1], device=keep.device)
            return Columns(every.expand(len(keep), -1), None)
        side = "left"  # next to the answer, where generation goes on
    return remaining(keep, mask, side or padding_side(mask))
