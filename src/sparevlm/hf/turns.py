"""A pruned prompt remembered with its cache, so that a conversation can go on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparevlm.hf.media import is_any_of
from sparevlm.hf.stock import cached_tokens, row_keys

_ATTRIBUTE = "_sparevlm_prompt"  # on the cache, so that copies of it keep it
_MARKS = "_sparevlm_rows"


@dataclass(frozen=True, eq=False)
class Memory:
    """A prompt as the user wrote it and as the language model got it.

    Attributes
    ----------
    ids : Tensor [B, L]
        The user's prompt.
    mask : Tensor [B, L] or None
        And its mask.
    kept_ids, kept_mask, kept_positions : Tensor [B, L'] (mask and positions may be None)
        What the language model got; positions with several axes are [A, B, L'].
    dropped : Tensor [B]
        Visual tokens dropped in each row.
    next_position : Tensor [B]
        Position, in the user's prompt, of the token after it.
    original : bool
        Whether positions are those of the user's prompt.
    """

    ids: Tensor
    mask: Tensor | None
    kept_ids: Tensor
    kept_mask: Tensor | None
    kept_positions: Tensor | None
    dropped: Tensor
    next_position: Tensor
    original: bool

    def expand(self, rows: int) -> Memory:
        """The memory of a cache whose rows were multiplied, by beams for example."""
        factor = rows // len(self.ids)
        if factor == 1:
            return self

        def more(values: Tensor | None) -> Tensor | None:
            rows_at = 1 if values is not None and values.ndim == 3 else 0
            return None if values is None else values.repeat_interleave(factor, rows_at)

        return Memory(
            *(more(getattr(self, name)) for name in list(self.__dataclass_fields__)[:-1]),  # type: ignore[arg-type, misc]
            original=self.original,
        )

    def completed(self, ids: Tensor) -> Memory:
        """The memory with the ids that were not known, tokens fed by forward, taken from `ids`."""
        unknown = self.ids < 0
        if not bool(unknown.any()):
            return self
        whole = ids[:, : self.ids.shape[1]].to(self.ids.device)
        kept = self.kept_ids.clone()
        kept[kept < 0] = whole[unknown]  # in both they follow each other alike
        return replace(self, ids=whole, kept_ids=kept)

    def cropped(self, cached: int, placeholders: tuple[int, ...]) -> Memory:
        """The memory of a cache cropped to `cached` tokens; itself where that cannot be told."""
        gone = self.kept_ids[:, cached:]
        same = torch.equal(self.ids[:, -gone.shape[1] :], gone)
        if not same or bool(is_any_of(gone, placeholders).any()):
            return self
        seen = None if self.kept_mask is None else (self.kept_mask[:, cached:] != 0).sum(1)
        positions = self.kept_positions
        return Memory(
            ids=self.ids[:, : -gone.shape[1]],
            mask=None if self.mask is None else self.mask[:, : -gone.shape[1]],
            kept_ids=self.kept_ids[:, :cached],
            kept_mask=None if self.kept_mask is None else self.kept_mask[:, :cached],
            kept_positions=None if positions is None else positions[..., :cached],
            dropped=self.dropped,
            next_position=self.next_position - (gone.shape[1] if seen is None else seen),
            original=self.original,
        )


def remember(cache: Any, memory: Memory | None) -> None:
    """Keep a memory with a cache; None removes it."""
    if cache is not None and not isinstance(cache, tuple):
        setattr(cache, _ATTRIBUTE, memory)
        if memory is not None:
            mark_rows(cache, memory.kept_ids.shape[1] - 1)


def recall(cache: Any) -> Memory | None:
    """The memory of a cache that holds something."""
    return getattr(cache, _ATTRIBUTE, None) if cached_tokens(cache) else None


def mark_rows(cache: Any, column: int) -> None:
    """Note what tells the rows of a cache apart: keys of its last layer, of one column."""
    setattr(cache, _MARKS, row_keys(cache, column))


def check_rows(cache: Any) -> None:
    """Raise ValueError if rows of a cache lie in another order than they were left in.

    Rows that follow each other may stand for one, as beams do.
    """
    column, marks = getattr(cache, _MARKS, None) or (0, None)
    now = None if marks is None else (row_keys(cache, column) or (0, None))[1]
    if marks is None or now is None or len(now) % len(marks):
        return
    known = marks.to(now.device).repeat_interleave(len(now) // len(marks), 0).float()
    far = (known - now.float()).abs().amax(1)
    if bool((far > 0.02 * known.abs().max()).any()):
        raise ValueError(
            "rows of the cache were moved, repeated or replaced since a prompt was pruned into it, "
            "and what was dropped of each is remembered in the old order: pass it as it was, or no "
            "cache"
        )


@dataclass(frozen=True, eq=False)
class Prefix:
    """The part of a prompt that a cache holds already.

    Attributes
    ----------
    columns : int
        Leading columns of the user's ids that it stands for; 0 where the ids are new tokens only.
    told : Tensor [B, T]
        The user's ids so far; -1 where they are not known.
    told_mask : Tensor [B, T] or None
        And the mask.
    kept : Tensor [B, P]
        What the language model got of them.
    mask : Tensor [B, P] or None
        Attention mask of `kept`.
    positions : Tensor [B, P] or [A, B, P], or None
        Positions of `kept`, where they are those of the user's prompt.
    dropped : Tensor [B]
        Visual tokens dropped so far.
    start : Tensor [B]
        Position, in the user's prompt, of the first token after the prefix.
    original : bool
        Whether the cache was made with the positions of the user's prompt.
    """

    columns: int
    told: Tensor
    told_mask: Tensor | None
    kept: Tensor
    mask: Tensor | None
    positions: Tensor | None
    dropped: Tensor
    start: Tensor
    original: bool


def cached_prefix(
    cache: Any, ids: Tensor, mask: Tensor | None, placeholders: tuple[int, ...], *, whole: bool
) -> Prefix | None:
    """What a cache holds of a prompt; None for an empty cache.

    Parameters
    ----------
    cache
        A transformers cache.
    ids : Tensor [B, L]
        The user's ids: the whole conversation, or its new tokens only.
    mask : Tensor [B, ..] or None
        The user's mask over the whole conversation.
    placeholders : tuple of int
        Ids of placeholders.
    whole : bool
        True in `generate`, where ids are the whole conversation unless they fit only as new tokens.

    Raises
    ------
    ValueError
        If the conversation does not begin with the prompt that the cache was made from, or the
        cache was cropped within a picture.
    """
    cached = cached_tokens(cache)
    if cached == 0:
        remember(cache, None)  # of before a reset
        return None
    rows, length = ids.shape
    memory = recall(cache)
    if memory is not None:
        check_rows(cache)
    columnwise = memory is None and not whole  # a stock forward call counted padding too
    memory = _memory_of(memory, ids, cached, placeholders)
    told, kept = memory.ids.shape[1], memory.kept_ids.shape[1]
    since = max(cached - kept, 0)  # tokens generated or fed after the remembered prompt
    columns = _columns_told(memory, ids, mask, since, whole=whole)
    if columns:
        memory = memory.completed(ids)
    lost = memory.kept_ids[:, cached:]
    if columns and cached < kept and bool(is_any_of(lost, placeholders).any()):
        raise ValueError(
            "the cache was cropped within a picture: crop it after the last picture, "
            "or pass no cache"
        )
    between = ids[:, told:columns] if columns else ids.new_full((rows, since), -1)
    held, seen = None, torch.ones_like(between)
    if mask is not None:
        stop = mask.shape[1] - length + columns
        _check_told(memory, mask, stop - since - told)
        seen = (mask[:, stop - since : stop] if stop >= since else seen).to(seen.dtype)
    if memory.kept_mask is not None or mask is not None:
        before = memory.kept_mask
        before = torch.ones_like(memory.kept_ids) if before is None else before
        held = torch.cat([before, seen.to(before.dtype)], 1)
    steps = torch.ones_like(between) if columnwise else (seen != 0).long()
    return Prefix(
        columns=columns,
        told=torch.cat([memory.ids, between], 1),
        told_mask=None if held is None else torch.cat([_told(memory, seen), seen], 1),
        kept=torch.cat([memory.kept_ids, between], 1),
        mask=held,
        positions=_positions_after(memory, steps),
        dropped=memory.dropped,
        start=memory.next_position + steps.sum(1),
        original=memory.original,
    )


def _told(memory: Memory, like: Tensor) -> Tensor:
    """The mask [B, L] of the user's prompt."""
    mask = torch.ones_like(memory.ids) if memory.mask is None else memory.mask
    return mask.to(like)


def _check_told(memory: Memory, mask: Tensor, begin: int) -> None:
    """Raise ValueError if a mask shows other columns of a remembered prompt than its own did."""
    told = memory.ids.shape[1]
    if begin != 0 or told == 0 or not memory.kept_ids.shape[1]:
        return
    if bool(((mask[:, :told] != 0) != (_told(memory, mask) != 0)).any()):
        raise ValueError(
            "attention_mask hides, or shows, other columns than when the prompt was pruned into "
            "the cache: pass the mask that it had, with ones for what came since, or no cache"
        )


def _memory_of(
    memory: Memory | None, ids: Tensor, cached: int, placeholders: tuple[int, ...]
) -> Memory:
    """What a cache of `cached` tokens remembers, for the rows of `ids` [B, L]."""
    rows = len(ids)
    if memory is None:  # a prompt that was not pruned
        none, zero = ids[:, :0], torch.zeros_like(ids[:, 0])
        memory = Memory(none, None, none, None, none, zero, zero, True)
    elif rows % len(memory.ids):
        raise ValueError(
            f"the cache was made for {len(memory.ids)} prompts and {rows} are given: "
            "pass the prompts that the cache was made from"
        )
    memory = memory.expand(rows)
    return memory.cropped(cached, placeholders) if cached < memory.kept_ids.shape[1] else memory


def _columns_told(
    memory: Memory, ids: Tensor, mask: Tensor | None, since: int, *, whole: bool
) -> int:
    """Leading columns of `ids` [B, L] that are cached; 0 where all are new."""
    told, length = memory.ids.shape[1], ids.shape[1]
    known = memory.ids.to(ids.device)
    begins = length > told + since and bool(((ids[:, :told] == known) | (known < 0)).all())
    new_only = mask is not None and mask.shape[1] > length
    if whole and not begins and not new_only:
        raise ValueError(
            "this prompt does not go on from the one that the cache was made from: pass the whole "
            "conversation (the returned sequences, then the new turn), or no cache"
        )
    return told + since if whole and begins else 0


def _positions_after(memory: Memory, steps: Tensor) -> Tensor | None:
    """Positions of the remembered prompt and of what followed: `steps` [B, T] are 0 for padding."""
    if not memory.original or memory.kept_positions is None:
        return None
    after = memory.next_position[:, None] + steps.cumsum(1) - 1
    after = after.clamp(min=0).expand(*memory.kept_positions.shape[:-1], -1)
    return torch.cat([memory.kept_positions, after], -1)
