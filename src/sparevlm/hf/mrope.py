"""Positions with several axes (M-RoPE): time, row and column of a patch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.hf.gather import default_positions


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
