"""One forward call: its pictures, what is left of them, and what each layer's cache then holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparevlm.hf.decoder.changes import Recorded
from sparevlm.hf.decoder.probe import Taken
from sparevlm.report import Timers

if TYPE_CHECKING:
    from sparevlm.methods.in_decoder import Schedule
    from sparevlm.report import ImageReport

# On the cache, so that copies of it keep them.
_HELD = "_sparevlm_held"  # {layer: columns of the whole prompt [B, P], -1: padding}
_TOTAL = "_sparevlm_total"  # columns of the whole prompt so far


@dataclass(eq=False)
class Picture:
    """A run of placeholders in a prompt, and what is left of it.

    Attributes
    ----------
    row : int
        Row of the batch.
    columns : Tensor [N]
        Of this call, as the user gave it.
    schedule : dict
        {layer: tokens left}.
    left : Tensor [k]
        Indices into `columns`.
    kept : dict
        {layer: `left` from it on}.
    timers : Timers
        Of the choices.
    """

    row: int
    columns: Tensor
    schedule: Schedule
    left: Tensor
    kept: dict[int, Tensor] = field(default_factory=dict)
    timers: Timers = field(default_factory=Timers)


@dataclass(eq=False)
class Call:
    """One forward call of the model; its thread's own.

    Attributes
    ----------
    words : Tensor [B, L], bool
        Columns that are no placeholders and no padding.
    real : Tensor [B, L], bool
        Columns that are no padding.
    earlier : Tensor [B, P] or None
        And of the columns before this call, as the user counts them.
    pictures : list
    before : list of ImageReport
        Of the same pictures, from the method before the language model; [] if it saw none.
    each : int
        Rows that stand for one prompt: beams follow each other.
    past : int
        Columns that the cache's first layer held before.
    left : Tensor [B, L'] or None
        Columns of this call that the present layer gets, -1 for padding; None: all.
    taken : dict
        {layer: what was read off the layer before it}.
    changes : list of Recorded
        Of the watched layers that ran.
    embedded : Tensor [B, L, D] or None
        What the first layer got, until the last stage, for a method that asks for it.
    lefts : list
        `left` of each layer that ran.
    again : bool
        Whether gradient checkpointing will run the present layer again, with its hooks.
    held_in
        The cache that the layers are given, or None.
    whole
        A cache that tells one length for all layers while the call lasts, or None.
    """

    words: Tensor
    real: Tensor
    earlier: Tensor | None
    pictures: list[Picture]
    before: list[ImageReport]
    each: int
    past: int = 0
    left: Tensor | None = None
    taken: dict[int, Taken] = field(default_factory=dict)
    changes: list[Recorded] = field(default_factory=list)
    embedded: Tensor | None = None
    lefts: list[Tensor | None] = field(default_factory=list)
    again: bool = False
    held_in: Any = None
    whole: Any = None


def is_shorter(cache: Any) -> bool:
    """Whether layers of a cache hold less than the whole prompt."""
    return bool(getattr(cache, _HELD, None))


def held_by(cache: Any, layer: int) -> Tensor | None:
    """Columns [B, P] of the whole prompt that a layer's part of a cache holds; None: all."""
    held: dict[int, Tensor] = getattr(cache, _HELD, {})
    return held.get(layer)


def begin(cache: Any, past: int, length: int) -> None:
    """At the first layer: note that `length` columns come to the `past` ones of a cache.

    Raises
    ------
    ValueError
        If they are not the ones that it was left with.
    """
    if past == 0 or not hasattr(cache, _HELD):
        setattr(cache, _HELD, {})
        setattr(cache, _TOTAL, past)
    if getattr(cache, _TOTAL) != past:
        raise ValueError(
            "the cache was cropped, or fed by the model without pruning, which leaves layers "
            "apart: go on with the cache as it was (assisted decoding is not possible)"
        )
    setattr(cache, _TOTAL, past + length)


def hold(cache: Any, layer: int, held: Tensor | None, call: Call) -> None:
    """Remember which columns a layer's part of the cache has after this call."""
    rows, length = call.words.shape
    left = call.left
    if left is None:
        left = torch.arange(length, device=call.words.device).expand(rows, -1)
    new = torch.where(left < 0, -1, left + call.past)
    if held is None:
        held = torch.arange(call.past, device=new.device).expand(rows, -1)
    getattr(cache, _HELD)[layer] = torch.cat((held, new), dim=1)


def seen_before(call: Call, held: Tensor | None) -> Tensor:
    """Which of the columns that a layer had cached before this call are no padding: [B, P]."""
    rows, device = len(call.words), call.words.device
    if held is None:
        held = torch.arange(call.past, device=device).expand(rows, -1)
    if call.earlier is None:
        return held >= 0
    return (held >= 0) & call.earlier.gather(1, held.clamp(min=0))
