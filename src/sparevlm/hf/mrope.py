"""Positions with several axes (M-RoPE): time, row and column of a patch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.hf.gather import default_positions


def axes_positions(
    model: Any, ids: Tensor, mask: Tensor | None, grids: Tensor | None, start: int | Tensor
) -> Tensor:
    """Positions [3, B, L] of an unpruned prompt, as the model itself would place it.

    Parameters
    ----------
    ids : Tensor [B, L]
        The prompt, or what of it is not cached.
    mask : Tensor [B, L] or None
        Zeros where it is padded.
    grids : Tensor [images, 3] or None
        `image_grid_thw` of the pictures in `ids`.
    start : int or Tensor [B, 1]
        Position of the first token.
    """
    if grids is None or not len(grids):
        return default_positions(ids, mask, start).expand(3, *ids.shape)
    base = model.base_model
    types = (ids == model.config.image_token_id).int()
    positions, _ = base.get_rope_index(
        ids, mm_token_type_ids=types, image_grid_thw=grids.to(ids.device), attention_mask=mask
    )
    if mask is not None:
        positions = positions.masked_fill(mask == 0, 0)
    return (positions + start).to(torch.int64)
