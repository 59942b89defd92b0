"""Positions with several axes (M-RoPE): time, row and column of a patch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.hf.gather import default_positions
from sparevlm.hf.media import is_any_of
from sparevlm.hf.reading import Prompt


def prompt_positions(
    model: Any, prompt: Prompt, codes: tuple[int, ...], places: dict[str, Tensor]
) -> Tensor:
    """Positions [3, B, L - cached] of what of a prompt is not cached.

    `codes` are those of the kinds of input that are new, `places` their grids and times. Marks of
    other kinds count as words: a model may say them.
    """
    new, mask = prompt.ids[:, prompt.start :], prompt.mask
    if mask is not None:
        mask = mask[:, mask.shape[1] - new.shape[1] :]
    types = prompt.types[:, prompt.start :]
    begin = prompt.prefix.start[:, None].cpu() if prompt.prefix else 0
    return axes_positions(model, new, types * is_any_of(types, codes), mask, places, begin)


def axes_positions(
    model: Any,
    ids: Tensor,
    types: Tensor,
    mask: Tensor | None,
    places: dict[str, Tensor],
    start: int | Tensor,
) -> Tensor:
    """Positions [3, B, L] of an unpruned prompt, as the model itself would place it.

    Parameters
    ----------
    ids : Tensor [B, L]
        The prompt, or what of it is not cached.
    types : Tensor [B, L]
        What each token stands for, see `media.token_types`.
    mask : Tensor [B, L] or None
        Zeros where it is padded.
    places : dict of Tensor
        `image_grid_thw`, `video_grid_thw` and `second_per_grid_ts` of what is in `ids`.
    start : int or Tensor [B, 1]
        Position of the first token.

    All tensors are best on the CPU: the model looks at each picture's.
    """
    if not bool(types.any()):
        return default_positions(ids, mask, start).expand(3, *ids.shape)
    places = {name: value.to(ids.device) for name, value in places.items()}
    positions = stock.axes_of(model, ids, types, mask, places)
    if mask is not None:
        positions = positions.masked_fill(mask == 0, 0)
    return (positions + start).to(torch.int64)
