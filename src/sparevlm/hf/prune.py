"""Shortening a prompt: encode pictures and videos, reduce, drop placeholders from every tensor.

Stock code gets the pruned features through an argument of its own, so nothing downstream knows that
there were more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.hf.encode import Encoded, encode
from sparevlm.hf.families import Family, find_family
from sparevlm.hf.gather import Side
from sparevlm.hf.guidance import Guidance, make_guidance
from sparevlm.hf.media import (
    MODALITIES,
    VIDEO,
    Modality,
    is_any_of,
    mark,
    placeholder_ids,
    token_types,
)
from sparevlm.hf.memory import Memory, cached_prefix, recall
from sparevlm.hf.mrope import axes_positions
from sparevlm.hf.pictures import Picture, locate, reduce_pictures, reduced, runs_of, spoken
from sparevlm.hf.prompt import shorten
from sparevlm.hf.remember import remembered
from sparevlm.report import ImageReport
from sparevlm.warning import warn

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod

# What places tokens of several axes, beside the grids.
_TIMES = "second_per_grid_ts"


@dataclass(eq=False)
class Shrunk:
    """The arguments of a call after pruning, and what was done."""

    kwargs: dict[str, Any]
    report: list[ImageReport] = field(default_factory=list)
    memory: Memory | None = None


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
    relevance : "auto", "clip", "llm" or "none"
        What methods that look at the question compare it with, as in `attach`.
    clip : CLIPModel, SiglipModel, TowerScorer, str or None
        As in `attach`.
    tokenizer : tokenizer, processor or None
        As in `attach`.
    question : str or None
        As in `attach`.

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
    return _shrink_inputs(
        method, model, inputs, padding_side, relevance, clip, tokenizer, question
    ).kwargs


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
) -> list[ImageReport]:
    """What a method keeps of each picture, without running the language model.

    Parameters
    ----------
    method : PruningMethod
        One that works before the language model.
    model
        A supported transformers model; not changed.
    inputs : mapping
        As in `prune_inputs`.
    relevance : "auto", "clip", "llm" or "none"
        As in `attach`.
    clip : CLIPModel, SiglipModel, TowerScorer, str or None
        As in `attach`.
    tokenizer : tokenizer, processor or None
        As in `attach`.
    question : str or None
        As in `attach`.

    Returns
    -------
    list of ImageReport
        One entry a picture, or frame of a video.

    Raises
    ------
    ValueError
        If the model is not supported or the inputs do not fit.
    """
    return _shrink_inputs(
        method, model, inputs, "left", relevance, clip, tokenizer, question
    ).report


def _shrink_inputs(
    method: PruningMethod,
    model: Any,
    inputs: Mapping[str, Any],
    side: Side,
    relevance: str,
    clip: Any,
    tokenizer: Any,
    question: str | None,
) -> Shrunk:
    if method.inside:
        raise ValueError(
            f"{type(method).__name__} works inside the language model, not on its inputs: "
            "attach it to the model"
        )
    family = find_family(model)
    guidance = None
    if "query" in method.requires:
        guidance = make_guidance(
            model,
            family,
            method.compares,
            relevance=relevance,
            clip=clip,
            tokenizer=tokenizer,
            question=question,
        )
    return shrink(method, model, family, guidance, dict(inputs), side=side)


def shrink(
    method: PruningMethod,
    model: Any,
    family: Family,
    guidance: Guidance | None,
    kwargs: dict[str, Any],
    *,
    side: Side | None,
    whole: bool = False,
) -> Shrunk:
    """Prune the prompt in `kwargs`, which is not changed.

    `side` None pads where the mask does. `whole`: ids are the whole conversation even where a cache
    holds its beginning, as in `generate`.
    """
    cache = stock.cache_of(kwargs)
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    kwargs = stock.with_cache(type(model).forward, kwargs, cache)  # under the name that it has here
    if stock.cached_tokens(cache):
        stock.check_cache(model, cache)
    media = [modality for modality in MODALITIES if modality.pixels in kwargs]
    _check(family, kwargs, media)
    ids: Tensor | None = kwargs.get("input_ids")
    mask = kwargs.get("attention_mask")
    odd = mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2)
    if ids is None or odd:
        if recall(cache) is not None:
            raise ValueError(
                "the cache holds a pruned prompt: go on from it with input_ids and a mask [B, L]"
            )
        return Shrunk(kwargs)  # no pictures, so nothing of ours
    if stock.has_features(kwargs):
        return Shrunk(kwargs)
    # What is worked out about columns is worked out on the CPU: on a GPU each look would wait.
    told, seen = ids.cpu(), None if mask is None else mask.cpu()
    types = token_types(family, model, told)
    placeholders = placeholder_ids(family, model)
    prefix = cached_prefix(cache, ids, mask, placeholders, whole=whole)
    start = prefix.columns if prefix else 0
    given = kwargs
    encodings = []
    for modality in media:
        there = types == modality.code
        if not bool(there.any()):
            raise ValueError(
                f"{len(kwargs[modality.pixels])} {modality.noun}s and no placeholder for them: put "
                f"one {mark(family, model, modality)} for each {modality.noun} into the prompt, or "
                f"pass no {modality.pixels}"
            )
        if bool(there[:, start:].any()):
            runs = (runs_of(there), runs_of(there[:, start:]))
            encodings.append(_encode(method, model, family, guidance, modality, given, runs))
        else:  # all of them lie in the cache
            kwargs = {name: value for name, value in kwargs.items() if name != modality.pixels}
    keep = torch.ones_like(told, dtype=torch.bool)
    report: list[ImageReport] = []
    if encodings:
        tiles = method.per == "tile"
        pictures = [
            picture
            for found in encodings
            for picture in locate(
                model, family, found, told, types == found.modality.code, start, tiles=tiles
            )
        ]
        pictures.sort(key=lambda picture: (picture.row, int(picture.columns[0])))
        words = spoken(types, seen, pictures)
        left, report = reduce_pictures(method, guidance, pictures, told, words)
        if len(report) == len(pictures):
            for picture, one in zip(pictures, report, strict=True):
                one.pixels = _pixels(picture, given)
        pairs = list(zip(pictures, left, strict=True))
        for picture, kept in pairs:
            if kept.reduction is not None:
                # With what stands between its placeholders: marks of lines and tiles.
                keep[picture.row, picture.columns[0] : picture.columns[-1] + 1] = False
        for picture, kept in pairs:  # tiles may lie side by side
            keep[picture.row, kept.columns] = True
        used = {name for found in encodings for name in found.used}
        kwargs = {name: value for name, value in kwargs.items() if name not in used}
        outputs = {}
        for encoded in encodings:
            mine = [pair for pair in pairs if pair[0].encoded is encoded]
            if any(len(kept.columns) for _, kept in mine):
                outputs[encoded.modality.name] = reduced(
                    encoded, [p for p, _ in mine], [kept for _, kept in mine]
                )
        kwargs = stock.with_features(kwargs, outputs)
    begun = prefix is not None and bool(prefix.dropped.any())
    if bool(keep.all()) and not begun:
        places = {m.grids: given[m.grids] for m in media if m.grids in given}
        return Shrunk(kwargs | places, report)  # stock code makes positions of them
    wanted: str = method.positions
    if wanted == "auto":  # `generate` can keep original positions with a cache only
        renumber = whole and not uses_cache(model, kwargs)
        wanted = "compact" if renumber and not family.mrope else family.positions
    original = prefix.original if prefix is not None and begun else wanted == "original"
    axes = None
    if family.mrope:
        if not original:
            raise ValueError(
                f"{family.name} places tokens by time, row and column, which cannot be renumbered: "
                'use positions="original", and in generate the cache'
            )
        new = told[:, start:]
        seen = None if seen is None else seen[:, seen.shape[1] - new.shape[1] :]
        places = _places(given, encodings, pictures) if encodings else {}
        begin = prefix.start[:, None].cpu() if prefix else 0
        codes = tuple(found.modality.code for found in encodings)
        kinds = types[:, start:] * is_any_of(types[:, start:], codes)  # a model may say others
        axes = axes_positions(model, new, kinds, seen, places, begin)
        axes = axes.to(ids.device, non_blocking=True)
    pad = _pad_id(model, placeholders)
    kwargs, memory = shorten(kwargs, keep, prefix, original=original, side=side, pad=pad, axes=axes)
    return Shrunk(kwargs, report, memory)


def _pixels(picture: Picture, kwargs: dict[str, Any]) -> Tensor | None:
    """What the encoder saw of a picture [3, H, W], where each entry is one picture."""
    pixels = kwargs.get(picture.encoded.modality.pixels)
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        return None
    if len(pixels) != len(picture.encoded.features):
        return None
    return pixels[picture.entry].detach()


def _encode(
    method: PruningMethod,
    model: Any,
    family: Family,
    guidance: Guidance | None,
    modality: Modality,
    kwargs: dict[str, Any],
    runs: tuple[list[int], ...],
) -> Encoded:
    """Run the encoder, and say so where the question cannot be put beside what it gives."""
    wants_hidden = guidance is not None and guidance.scorer.needs_hidden_states
    encoded = remembered(
        kwargs,
        method,
        (id(model), modality.name, wants_hidden, runs),
        lambda: encode(model, family, modality, kwargs, method, hidden=wants_hidden, runs=runs),
    )
    if wants_hidden and encoded.hidden is None:
        warn(
            f"guidance by the question is off: no text tower can be put beside the tokens of a "
            f'{modality.noun} of {family.name}; choose relevance "llm", or guidance "none"'
        )
    return encoded


def _places(
    kwargs: dict[str, Any], encodings: list[Encoded], pictures: list[Picture]
) -> dict[str, Tensor]:
    """Grids and times of the pictures and videos that are not cached."""
    places = {}
    for encoded in encodings:
        sources = sorted({p.source for p in pictures if p.encoded is encoded})
        places[encoded.modality.grids] = kwargs[encoded.modality.grids].cpu()[sources]
        if encoded.modality is VIDEO and _TIMES in kwargs:
            places[_TIMES] = torch.as_tensor(kwargs[_TIMES]).cpu()[sources]
    return places


def uses_cache(model: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a `generate` call with these arguments caches keys and values."""
    return generation_setting(model, kwargs, "use_cache") is not False


def generation_setting(model: Any, kwargs: dict[str, Any], name: str) -> Any:
    """A setting of a `generate` call as stock finds it: argument, given config, model's config."""
    if kwargs.get(name) is not None:
        return kwargs[name]
    given = getattr(kwargs.get("generation_config"), name, None)
    return getattr(model.generation_config, name, None) if given is None else given


def _check(family: Family, kwargs: dict[str, Any], media: list[Modality]) -> None:
    if "prefill_chunk_size" in kwargs:
        raise ValueError("a pruned prompt cannot be prefilled in chunks: remove prefill_chunk_size")
    if not media:
        return
    if VIDEO in media and family.video in ("no", "pictures"):
        how = (
            "give some of its frames as pictures"
            if family.video == "no"
            else "it takes a video as pictures, one a frame: pass what its processor returns"
        )
        raise ValueError(f"{family.name} takes no {VIDEO.pixels}: {how}")
    if len(media) > 1 and family.video == "marks":
        raise ValueError(
            f"{family.name} in transformers takes pictures or videos in one call, not both: "
            "give the frames of the video as pictures"
        )
    if "inputs_embeds" in kwargs:
        raise ValueError("inputs_embeds and pictures were both given: pass input_ids with pictures")
    if stock.has_features(kwargs):
        raise ValueError("pictures and mm_encoder_outputs were both given: pass one of them")
    if kwargs.get("input_ids") is None:
        raise ValueError("pictures were given without input_ids: pass the processor's whole output")
    mask = kwargs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask must be [B, L], not {shape}: pass the processor's mask")


def _pad_id(model: Any, placeholders: tuple[int, ...]) -> int:
    """A token id that pads and is no placeholder."""
    for config in (model.config, model.config.get_text_config()):
        pad = getattr(config, "pad_token_id", None)
        if isinstance(pad, int) and pad >= 0 and pad not in placeholders:
            return pad
    return next(i for i in range(len(placeholders) + 1) if i not in placeholders)
