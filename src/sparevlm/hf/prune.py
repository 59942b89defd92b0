"""Shortening a prompt: encode pictures and videos, reduce, drop placeholders from every tensor.

Stock code gets the pruned features through an argument of its own, so nothing downstream knows that
there were more. docs/life_of_a_call.md goes along the road.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparevlm.guide import Guide
from sparevlm.hf.choosing import Chosen, choose, places_of
from sparevlm.hf.gather import Side
from sparevlm.hf.mrope import prompt_positions
from sparevlm.hf.passed import check_passed
from sparevlm.hf.prompt import shorten
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.reading import Prompt, media_of, named, pad_id, read_prompt, uses_cache
from sparevlm.hf.turns import Memory
from sparevlm.hf.wrapped import unwrapped
from sparevlm.report import ImageReport, Report
from sparevlm.warning import warn

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod


_TYPES = "mm_token_type_ids"


@dataclass(eq=False)
class Shrunk:
    """The arguments of a call after pruning, and what was done."""

    kwargs: dict[str, Any]
    report: list[ImageReport] = field(default_factory=list)
    memory: Memory | None = None
    columns: Tensor | None = None
    """Of the user's prompt [B, L'], -1 for padding; None: all from `start` on, as they were."""
    start: int = 0


def prune_inputs(
    method: PruningMethod,
    model: Any,
    inputs: Mapping[str, Any],
    *,
    padding_side: Side = "left",
    relevance: str = "auto",
    clip: Any = None,
    tokenizer: Any = None,
    question: str | None = None,
) -> dict[str, Any]:
    """Shorten the inputs of one call; for compiling, serving and debugging.

    Parameters
    ----------
    method : PruningMethod
        What to keep.
    model
        A supported transformers model; not changed.
    inputs : mapping
        What its processor gave: input_ids [B, L], attention_mask, pixel_values, labels and so on.
    padding_side : "left" or "right"
        Where rows of different length are padded: left for `generate`.
    relevance, clip, tokenizer, question
        How the question is compared with the picture, as in `attach`.

    Returns
    -------
    dict
        Arguments for `model(**...)` or `model.generate(**...)`; the pictures are replaced by
        `mm_encoder_outputs`.

    Raises
    ------
    ValueError
        If the model is not supported or the inputs do not fit.
    """
    guide = Guide(relevance, clip, tokenizer, question)
    return _shrink_inputs(method, model, inputs, padding_side, guide).kwargs


@torch.no_grad()
def preview(
    method: PruningMethod,
    model: Any,
    inputs: Mapping[str, Any],
    *,
    relevance: str = "auto",
    clip: Any = None,
    tokenizer: Any = None,
    question: str | None = None,
) -> Report:
    """What a method keeps of each picture, without running the language model.

    Parameters
    ----------
    method : PruningMethod
        One that works before the language model.
    model
        A supported transformers model; not changed.
    inputs : mapping
        As in `prune_inputs`.
    relevance, clip, tokenizer, question
        How the question is compared with the picture, as in `attach`.

    Returns
    -------
    Report, a list of ImageReport
        One entry a picture, or frame of a video; a notebook shows it as pictures.

    Raises
    ------
    ValueError
        If the model is not supported or the inputs do not fit.
    """
    guide = Guide(relevance, clip, tokenizer, question)
    return Report(_shrink_inputs(method, model, inputs, "left", guide).report)


def _shrink_inputs(
    method: PruningMethod, model: Any, inputs: Mapping[str, Any], side: Side, guide: Guide
) -> Shrunk:
    if method.inside:
        raise ValueError(
            f"{type(method).__name__} works inside the language model, not on its inputs: "
            "attach it to the model"
        )
    return shrink(Pruning.of(method, unwrapped(model), guide), dict(inputs), side=side)


def shrink(
    pruning: Pruning, kwargs: dict[str, Any], *, side: Side | None, whole: bool = False
) -> Shrunk:
    """Prune the prompt in `kwargs`, which is not changed.

    `side` as in `shorten`. `whole`: ids are the whole conversation even where a cache
    holds its beginning, as in `generate`.
    """
    kwargs = named(pruning.model, kwargs)
    media = media_of(pruning.family, kwargs)
    prompt = read_prompt(pruning.model, pruning.family, kwargs, whole=whole)
    if prompt is None:
        return Shrunk(kwargs)
    if (media and pruning.drops) or prompt.goes_on:
        check_passed(pruning, prompt, kwargs)
    chosen = choose(pruning, prompt, media, kwargs)
    if bool(chosen.keep.all()) and not prompt.goes_on:
        places = {m.grids: kwargs[m.grids] for m in media if m.grids in kwargs}
        # Stock code makes positions of them.
        return Shrunk(chosen.kwargs | places, chosen.report, start=prompt.start)
    original = _keeps_positions(pruning, prompt, kwargs, whole=whole)
    axes = None
    if pruning.family.mrope:
        axes = _several_axes(pruning, prompt, chosen, kwargs, original=original)
    shorter, memory, columns = shorten(
        chosen.kwargs,
        chosen.keep,
        prompt.prefix,
        original=original,
        side=side,
        pad=pad_id(pruning.model, prompt.placeholders),
        axes=axes,
    )
    return Shrunk(shorter, chosen.report, memory, columns)


def _keeps_positions(
    pruning: Pruning, prompt: Prompt, kwargs: dict[str, Any], *, whole: bool
) -> bool:
    """Whether what stays keeps the positions of the user's prompt."""
    if prompt.prefix is not None and prompt.goes_on:
        return prompt.prefix.original
    family, wanted = pruning.family, pruning.method.positions
    if wanted == "auto":  # `generate` can keep original positions with a cache only
        renumber = whole and not uses_cache(pruning.model, kwargs)
        wanted = "compact" if renumber and not family.mrope else family.positions
    return wanted == "original"


def _several_axes(
    pruning: Pruning, prompt: Prompt, chosen: Chosen, kwargs: dict[str, Any], *, original: bool
) -> Tensor:
    """Positions [3, B, L - cached] of the user's prompt, on the device of its ids."""
    if not original:
        raise ValueError(
            f"{pruning.family.name} places tokens by time, row and column, which cannot be "
            'renumbered: use positions="original", and in generate the cache'
        )
    if chosen.encodings and _TYPES not in kwargs and "position_ids" not in kwargs:
        warn(
            f"{_TYPES} was not given: {pruning.family.name} is pruned with the positions of the "
            "picture's grid, which a call without pruning does not have then, so that the two "
            "cannot be compared: pass the processor's whole output"
        )
    places = places_of(chosen, kwargs) if chosen.encodings else {}
    codes = tuple(encoded.modality.code for encoded in chosen.encodings)
    axes = prompt_positions(pruning.model, prompt, codes, places)
    return axes.to(kwargs["input_ids"].device, non_blocking=True)
