"""A pruned prompt remembered with its cache, so that a conversation can go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ATTRIBUTE = "_sparevlm_prompt"  # on the cache, so that copies of it keep it


@dataclass(frozen=True, eq=False)
class Memory:
    """A prompt as the user wrote it and as the language model got it.

    Attributes
    ----------
    ids : Tensor [B, L]
        The user's prompt.
    kept_ids, kept_mask, kept_positions : Tensor [B, L'] (mask and positions may be None)
        What the language model got.
    dropped : Tensor [B]
        Visual tokens dropped in each row.
    next_position : Tensor [B]
        Position, in the user's prompt, of the token after it.
    original : bool
        Whether positions are those of the user's prompt.
    """

    ids: Tensor
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
            return None if values is None else values.repeat_interleave(factor, 0)

        return Memory(
            *(more(getattr(self, name)) for name in list(self.__dataclass_fields__)[:-1]),  # type: ignore[arg-type, misc]
            original=self.original,
        )


def remember(cache: Any, memory: Memory | None) -> None:
    """Keep a memory with a cache; None removes it."""
    if cache is not None and not isinstance(cache, tuple):
        setattr(cache, _ATTRIBUTE, memory)


def recall(cache: Any) -> Memory | None:
    """The memory of a cache that holds something."""
    return getattr(cache, _ATTRIBUTE, None) if cached_tokens(cache) else None


def cached_tokens(cache: Any) -> int:
    """How many tokens a cache holds; 0 without one."""
    return 0 if cache is None else int(cache.get_seq_length())


@dataclass(frozen=True, eq=False)
class Prefix:
    """The part of a prompt that a cache holds already.

    Attributes
    ----------
    columns : int
        Leading columns of the user's ids that it stands for; 0 where the ids are new tokens only.
    told : Tensor [B, T]
        The user's ids so far; -1 where they are not known.
    kept : Tensor [B, P]
        What the language model got of them.
    mask : Tensor [B, P] or None
        Attention mask of `kept`.
    positions : Tensor [B, P] or None
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
    kept: Tensor
    mask: Tensor | None
    positions: Tensor | None
    dropped: Tensor
    start: Tensor
    original: bool


def cached_prefix(
    cache: Any, ids: Tensor, mask: Tensor | None, image_token: int, *, whole: bool
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
    image_token : int
        Placeholder id.
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
        return None
    rows, length = ids.shape
    memory = recall(cache)
    if memory is None:
        nothing = ids[:, :0]
        memory = Memory(
            nothing, nothing, None, nothing, torch.zeros_like(ids[:, 0]), 0 * ids[:, 0], True
        )
    elif rows % len(memory.ids):
        raise ValueError(
            f"the cache was made for {len(memory.ids)} prompts and {rows} are given: "
            "pass the prompts that the cache was made from"
        )
    memory = memory.expand(rows)
    told, kept = memory.ids.shape[1], memory.kept_ids.shape[1]
    since = max(cached - kept, 0)  # tokens generated or fed after the remembered prompt
    begins = length > told + since and torch.equal(ids[:, :told], memory.ids.to(ids.device))
    new_only = mask is not None and mask.shape[1] > length
    if whole and not begins and not new_only:
        raise ValueError(
            "this prompt does not go on from the one that the cache was made from: pass the whole "
            "conversation (the returned sequences, then the new turn), or no past_key_values"
        )
    columns = told + since if whole and begins else 0
    if columns and cached < kept and bool((memory.kept_ids[:, cached:] == image_token).any()):
        raise ValueError(
            "the cache was cropped within a picture: crop it after the last picture, "
            "or pass no past_key_values"
        )
    between = ids[:, told:columns] if columns else ids.new_full((rows, since), -1)
    held, seen = None, torch.ones_like(between)
    if mask is not None:
        stop = mask.shape[1] - length + columns
        seen = (mask[:, stop - since : stop] if stop >= since else seen).to(seen.dtype)
    if memory.kept_mask is not None or mask is not None:
        before = memory.kept_mask
        before = torch.ones_like(memory.kept_ids) if before is None else before
        held = torch.cat([before, seen.to(before.dtype)], 1)
    steps = (seen != 0).long()
    positions = None
    if memory.original and memory.kept_positions is not None:
        after = memory.next_position[:, None] + steps.cumsum(1) - 1
        positions = torch.cat([memory.kept_positions, after.clamp(min=0)], 1)
    return Prefix(
        columns=columns,
        told=torch.cat([memory.ids, between], 1),
        kept=torch.cat([memory.kept_ids, between], 1),
        mask=held,
        positions=positions,
        dropped=memory.dropped,
        start=memory.next_position + steps.sum(1),
        original=memory.original,
    )
