"""Shortening a prompt: encode the pictures, reduce, drop placeholders from every tensor.

Stock code gets the pruned features through its own argument `mm_encoder_outputs`, so nothing
downstream knows that there were more.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparevlm.hf.encode import encode_images
from sparevlm.hf.families import Family, find_family
from sparevlm.hf.gather import Side
from sparevlm.hf.guidance import Guidance, make_guidance
from sparevlm.hf.memory import Memory, cached_prefix, recall
from sparevlm.hf.mrope import axes_positions
from sparevlm.hf.pictures import features_by_row, locate, mark, reduce_pictures, runs_of
from sparevlm.hf.prompt import shorten
from sparevlm.hf.report import ImageReport

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod

_UNSUPPORTED = {
    "pixel_values_videos": (
        "video is not pruned yet, only pictures: remove the video, or detach for this call"
    ),
    "prefill_chunk_size": (
        "a pruned prompt cannot be prefilled in chunks: remove prefill_chunk_size"
    ),
}


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
    relevance, clip, tokenizer, question
        See `attach`.

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
    return shrink(method, model, family, guidance, dict(inputs), side=padding_side).kwargs


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
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    pictures_given = any(name in kwargs for name in family.pixels)
    _check(kwargs, pictures_given)
    ids: Tensor | None = kwargs.get("input_ids")
    mask = kwargs.get("attention_mask")
    odd = mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2)
    if ids is None or odd:
        before = recall(kwargs.get("past_key_values"))
        if before is not None:
            raise ValueError(
                "the cache holds a pruned prompt: go on from it with input_ids and a mask [B, L]"
            )
        return Shrunk(kwargs)  # no pictures, so nothing of ours
    if "mm_encoder_outputs" in kwargs:
        return Shrunk(kwargs)
    image_token = model.config.image_token_id
    placeholders = ids == image_token
    prefix = cached_prefix(kwargs.get("past_key_values"), ids, mask, image_token, whole=whole)
    start = prefix.columns if prefix else 0
    keep = torch.ones_like(ids, dtype=torch.bool)
    report: list[ImageReport] = []
    grids: Tensor | None = None
    if pictures_given and bool(placeholders[:, start:].any()):
        wants_hidden = guidance is not None and guidance.scorer.needs_hidden_states
        runs = (runs_of(placeholders), runs_of(placeholders[:, start:]))
        encoded = encode_images(model, family, kwargs, method, hidden=wants_hidden, runs=runs)
        if wants_hidden and encoded.hidden is None:
            warnings.warn(
                f"guidance by the question is off: CLIP cannot be put beside the tokens of "
                f'{family.name}; choose relevance "llm", or guidance "none"',
                stacklevel=2,
            )
        tiles = method.per == "tile"
        pictures = locate(model, family, encoded, ids, start, tiles=tiles)
        reductions, report = reduce_pictures(method, guidance, pictures, ids, mask, image_token)
        for picture, found in zip(pictures, reductions, strict=True):
            if found is not None:
                # With what stands between its placeholders: marks of lines and tiles.
                keep[picture.row, picture.columns[0] : picture.columns[-1] + 1] = False
                keep[picture.row, picture.columns[found.indices.to(keep.device)]] = True
        given = kwargs
        kwargs = {name: value for name, value in kwargs.items() if name not in encoded.used}
        untouched = all(found is None for found in reductions)
        if untouched and sum(len(p.features) for p in pictures) == encoded.count:
            output = copy.copy(encoded.output)
        else:
            levels = getattr(encoded.output, "deepstack_features", None)
            deep = None
            if levels:
                deep = [features_by_row(pictures, reductions, level) for level in levels]
            output = encoded.with_features(features_by_row(pictures, reductions), deep)
        grids = given.get("image_grid_thw")
        if grids is not None:
            if untouched:  # stock code makes positions of it
                kwargs["image_grid_thw"] = grids
            grids = grids[[picture.entry for picture in pictures]]
        kwargs["mm_encoder_outputs"] = {"image": output}
    elif pictures_given and not bool(placeholders.any()):
        raise ValueError(
            f"{len(kwargs[family.pixels[0]])} pictures and no placeholder for them: put one "
            f"{mark(model)} for each picture into the prompt, or pass no pixel_values"
        )
    elif pictures_given:  # all of them lie in the cache
        kwargs = {name: value for name, value in kwargs.items() if name not in family.pixels}
    begun = prefix is not None and bool(prefix.dropped.any())
    if bool(keep.all()) and not begun:
        return Shrunk(kwargs, report)
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
        new = ids[:, start:]
        seen = None if mask is None else mask[:, mask.shape[1] - new.shape[1] :]
        axes = axes_positions(model, new, seen, grids, prefix.start[:, None] if prefix else 0)
    pad = _pad_id(model, image_token)
    kwargs, memory = shorten(kwargs, keep, prefix, original=original, side=side, pad=pad, axes=axes)
    return Shrunk(kwargs, report, memory)


def uses_cache(model: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a `generate` call with these arguments caches keys and values."""
    return generation_setting(model, kwargs, "use_cache") is not False


def generation_setting(model: Any, kwargs: dict[str, Any], name: str) -> Any:
    """A setting of a `generate` call as stock finds it: argument, given config, model's config."""
    if kwargs.get(name) is not None:
        return kwargs[name]
    given = getattr(kwargs.get("generation_config"), name, None)
    return getattr(model.generation_config, name, None) if given is None else given


def _check(kwargs: dict[str, Any], pictures_given: bool) -> None:
    for name, why in _UNSUPPORTED.items():
        if name in kwargs:
            raise ValueError(why)
    if not pictures_given:
        return
    if "inputs_embeds" in kwargs:
        raise ValueError("inputs_embeds and pictures were both given: pass input_ids with pictures")
    if "mm_encoder_outputs" in kwargs:
        raise ValueError("pictures and mm_encoder_outputs were both given: pass one of them")
    if kwargs.get("input_ids") is None:
        raise ValueError("pictures were given without input_ids: pass the processor's whole output")
    mask = kwargs.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask must be [B, L], not {shape}: pass the processor's mask")


def _pad_id(model: Any, image_token: int) -> int:
    """A token id that pads and is no placeholder."""
    for config in (model.config, model.config.get_text_config()):
        pad = getattr(config, "pad_token_id", None)
        if isinstance(pad, int) and pad >= 0 and pad != image_token:
            return pad
    return 0 if image_token != 0 else 1
