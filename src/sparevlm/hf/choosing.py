"""Encoding the pictures of a call, and choosing among their tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.hf.encode import Encoded, encode
from sparevlm.hf.encodings import remembered
from sparevlm.hf.media import VIDEO, Modality, mark
from sparevlm.hf.pictures import (
    Kept,
    Picture,
    locate,
    reduce_pictures,
    reduced,
    runs_of,
    spoken,
)
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.reading import Prompt
from sparevlm.report import ImageReport
from sparevlm.warning import warn

_TIMES = "second_per_grid_ts"  # places tokens of several axes, beside the grids


@dataclass(frozen=True, eq=False)
class Chosen:
    """What stays of the pictures of a call.

    Attributes
    ----------
    kwargs : dict
        Arguments of the call with encoded features instead of pixels.
    keep : Tensor [B, L], bool
        Columns that stay; on the CPU.
    encodings : list of Encoded
    pictures : list of Picture
        By row and column.
    report : list of ImageReport
    """

    kwargs: dict[str, Any]
    keep: Tensor
    encodings: list[Encoded] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    report: list[ImageReport] = field(default_factory=list)


def choose(
    pruning: Pruning, prompt: Prompt, media: list[Modality], kwargs: dict[str, Any]
) -> Chosen:
    """Encode what is not cached of `media`, and reduce it."""
    encodings = []
    rest = kwargs
    for modality in media:
        encoded = _encode_new(pruning, prompt, modality, kwargs)
        if encoded is None:  # all of them lie in the cache
            rest = {name: value for name, value in rest.items() if name != modality.pixels}
        else:
            encodings.append(encoded)
    keep = torch.ones_like(prompt.ids, dtype=torch.bool)
    if not encodings:
        return Chosen(rest, keep)
    pictures = _located(pruning, prompt, encodings)
    words = spoken(prompt.types, prompt.mask, pictures)
    left, report = reduce_pictures(pruning, pictures, prompt.ids, words)
    if len(report) == len(pictures):
        for picture, image in zip(pictures, report, strict=True):
            image.pixels = _pixels(picture, kwargs)
    pairs = list(zip(pictures, left, strict=True))
    _mark_columns(keep, pairs)
    used = {name for encoded in encodings for name in encoded.used}
    rest = {name: value for name, value in rest.items() if name not in used}
    rest = stock.with_features(rest, _outputs(encodings, pairs))
    return Chosen(rest, keep, encodings, pictures, report)


def _encode_new(
    pruning: Pruning, prompt: Prompt, modality: Modality, kwargs: dict[str, Any]
) -> Encoded | None:
    """Encode one kind of input, unless all its placeholders are cached."""
    places, new = prompt.of(modality), prompt.of(modality)[:, prompt.start :]
    if not bool(places.any()):
        raise ValueError(
            f"{len(kwargs[modality.pixels])} {modality.noun}s and no placeholder for them: put "
            f"one {mark(pruning.family, pruning.model, modality)} for each {modality.noun} into "
            f"the prompt, or pass no {modality.pixels}"
        )
    if not bool(new.any()):
        return None
    every = runs_of(places)
    runs = every, runs_of(new) if prompt.start else every
    guidance = pruning.guidance
    hidden = guidance is not None and guidance.scorer.needs_hidden_states
    encoded = remembered(
        kwargs,
        pruning.method,
        (id(pruning.model), modality.name, hidden, runs),
        lambda: encode(pruning, modality, kwargs, hidden=hidden, runs=runs),
    )
    if hidden and encoded.hidden is None:
        warn(
            f"guidance by the question is off: no text tower can be put beside the tokens of a "
            f'{modality.noun} of {pruning.family.name}; choose relevance "llm", or guidance "none"'
        )
    return encoded


def _located(pruning: Pruning, prompt: Prompt, encodings: list[Encoded]) -> list[Picture]:
    tiles = pruning.method.per == "tile"
    pictures = [
        picture
        for encoded in encodings
        for picture in locate(pruning, encoded, prompt, tiles=tiles)
    ]
    return sorted(pictures, key=lambda picture: (picture.row, int(picture.columns[0])))


def _mark_columns(keep: Tensor, pairs: list[tuple[Picture, Kept]]) -> None:
    """Set `keep` [B, L] to what stays."""
    stays = keep.numpy()  # a small write costs a fifth of torch's
    for picture, kept in pairs:
        if kept.reduction is not None:
            # With what stands between its placeholders: marks of lines and tiles.
            columns = picture.columns.numpy()
            stays[picture.row, columns[0] : columns[-1] + 1] = False
    for picture, kept in pairs:  # tiles may lie side by side
        stays[picture.row, kept.columns.numpy()] = True


def _outputs(encodings: list[Encoded], pairs: list[tuple[Picture, Kept]]) -> dict[str, Any]:
    """Outputs of the encoders with what stays; none for a modality of which nothing does."""
    outputs = {}
    for encoded in encodings:
        mine = [pair for pair in pairs if pair[0].encoded is encoded]
        if any(len(kept.columns) for _, kept in mine):
            pictures, left = [picture for picture, _ in mine], [kept for _, kept in mine]
            outputs[encoded.modality.name] = reduced(encoded, pictures, left)
    return outputs


def places_of(chosen: Chosen, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """Grids and times of the pictures and videos that are not cached."""
    places = {}
    for encoded in chosen.encodings:
        sources = sorted({p.source for p in chosen.pictures if p.encoded is encoded})
        places[encoded.modality.grids] = kwargs[encoded.modality.grids].cpu()[sources]
        if encoded.modality is VIDEO and _TIMES in kwargs:
            places[_TIMES] = torch.as_tensor(kwargs[_TIMES]).cpu()[sources]
    return places


def _pixels(picture: Picture, kwargs: dict[str, Any]) -> Tensor | None:
    """What the encoder saw of a picture [3, H, W], where each entry is one picture."""
    pixels = kwargs.get(picture.encoded.modality.pixels)
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        return None
    if len(pixels) != len(picture.encoded.features):
        return None
    return pixels[picture.entry].detach()
