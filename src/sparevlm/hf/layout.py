"""Rows of the vision encoder put in the places of visual tokens.

Between encoder and language model, families drop class tokens, average or shuffle squares of
patches into one token, or lay tiles side by side with separators. What a method reads off the
encoder goes the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sparevlm.families import Family
from sparevlm.hf import stock
from sparevlm.hf.media import IMAGE, Modality

Layout = Callable[[Tensor], "list[Tensor] | None"]
"""Encoder rows [T, L, C] of T tiles or frames -> one tensor [N_i, C] an entry of the features, zero
in the places of separators; None where the two cannot be told to belong together."""


def layout_of(
    model: Any,
    family: Family,
    modality: Modality,
    arguments: dict[str, Any],
    features: list[Tensor],
) -> Layout:
    """How rows of the encoder lie in `features`, which it gave for `arguments`."""
    sizes = [len(rows) for rows in features]
    packs = is_packed(model, modality)

    def place(rows: Tensor) -> list[Tensor] | None:
        if packs:
            placed: list[Any] = _packed(model, arguments, rows)
        elif len(rows) == len(sizes):
            placed = [_averaged(family, r, n) for r, n in zip(rows, sizes, strict=True)]
        else:
            return None
        fits = [None if part is None else len(part) for part in placed] == sizes
        return placed if fits else None

    return place


def is_packed(model: Any, modality: Modality) -> bool:
    """Whether each visual token is one patch, though tiles and separators stand between."""
    return modality is IMAGE and stock.packs(model.base_model)


def _averaged(family: Family, rows: Tensor, tokens: int) -> Tensor | None:
    """Rows [L, C] of one square tile as `tokens` means of equal cells [N, C]."""
    if len(rows) - tokens in (0, 1):
        return rows[len(rows) - tokens :]
    if not family.square or family.grids:
        return None
    rows = rows[class_tokens(len(rows)) :]
    side, coarse = math.isqrt(len(rows)), math.isqrt(tokens)
    ends = tokens - coarse**2  # the separator after a video
    if side**2 != len(rows) or coarse > side or ends > 1:
        return None
    cells = F.adaptive_avg_pool2d(rows.T.unflatten(1, (side, side)), coarse).flatten(1).T
    return torch.cat([cells, cells.new_zeros(ends, cells.shape[1])])


def class_tokens(length: int) -> int:
    """Class tokens before the patches of a square tile: 0 or 1."""
    return 0 if math.isqrt(length) ** 2 == length else 1


def _packed(model: Any, arguments: dict[str, Any], rows: Tensor) -> list[Tensor]:
    """Rows [T, L, C] through the model's own packing, with zeros for its separators."""
    base, patches = model.base_model, _patches(model)
    if rows.shape[1] - patches not in (0, 1):
        return []
    rows = rows[:, rows.shape[1] - patches :]
    sizes = arguments["image_sizes"]
    counts = _tiles(base, arguments)
    if sum(counts) != len(rows):
        return []
    packed: list[Tensor] = stock.pack(
        base, model.config, list(rows.split(counts)), sizes, arguments
    )
    return packed


def tile_numbers(
    model: Any, arguments: dict[str, Any], candidates: list[Tensor | None]
) -> list[Tensor]:
    """The tile [N_i] that each token of packed pictures lies in, counted through all of them.

    `candidates` [N_i] are False for separators, which go with the patch before them.
    """
    count = sum(_tiles(model.base_model, arguments))
    marks = torch.eye(count)[:, None].expand(-1, _patches(model), -1)
    tiles = []
    for weights, kept in zip(_packed(model, arguments, marks), candidates, strict=True):
        places = torch.arange(len(weights))
        if kept is not None:
            places = places.where(kept.cpu(), 0).cummax(0).values
        tiles.append(weights.argmax(1)[places])
    return tiles


def _patches(model: Any) -> int:
    vision = model.config.vision_config
    side: int = vision.image_size // vision.patch_size
    return side**2


def _tiles(base: Any, arguments: dict[str, Any]) -> list[int]:
    """Tiles of each picture; of several in one prompt LLaVA-OneVision cuts none."""
    sizes, together = arguments["image_sizes"], arguments.get("batch_num_images")
    whole = [] if together is None else [n != 1 for n in together.tolist() for _ in range(n)]
    whole = whole or [False] * len(sizes)
    return [
        1 if alone else stock.tiles_of(base, size) for size, alone in zip(sizes, whole, strict=True)
    ]
