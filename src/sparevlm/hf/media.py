"""Pictures and videos: where each lies in a prompt, and which arguments carry it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparevlm.families import Family


@dataclass(frozen=True)
class Modality:
    """What transformers calls the parts of one kind of visual input.

    Attributes
    ----------
    name : str
        In `mm_encoder_outputs` and in the names of token ids.
    code : int
        In `mm_token_type_ids`.
    noun, unit : str
        What a placeholder stands for, and what one budget covers; for errors.
    pixels, grids : str
        Arguments that carry pixels, and patches in time, rows and columns.
    """

    name: str
    code: int
    noun: str
    unit: str
    pixels: str
    grids: str


IMAGE = Modality("image", 1, "picture", "picture", "pixel_values", "image_grid_thw")
VIDEO = Modality("video", 2, "video", "frame", "pixel_values_videos", "video_grid_thw")
MODALITIES = (IMAGE, VIDEO)


def token_types(family: Family, model: Any, ids: Tensor) -> Tensor:
    """What each token [B, L] stands for: 0 a word, else the code of a `Modality`; int64."""
    types = (ids == model.config.image_token_id).long()
    if family.video == "tokens":
        types[ids == model.config.video_token_id] = VIDEO.code
    elif family.video == "marks":
        first, last = (getattr(model.config, name) for name in family.marks)
        begun, ended = (ids == first).cumsum(1), (ids == last).cumsum(1)
        types[(types == IMAGE.code) & (begun > ended)] = VIDEO.code
    return types


def placeholder_ids(family: Family, model: Any) -> tuple[int, ...]:
    """Token ids of all placeholders."""
    image: int = model.config.image_token_id
    return (image, model.config.video_token_id) if family.video == "tokens" else (image,)


def mark(family: Family, model: Any, modality: Modality) -> str:
    """How an error calls the placeholder."""
    own = modality is VIDEO and family.video == "tokens"
    token = model.config.video_token_id if own else model.config.image_token_id
    return f"<{modality.name}> (token {token})"


def is_any_of(ids: Tensor, tokens: tuple[int, ...]) -> Tensor:
    """True where `ids` is one of `tokens`."""
    return torch.isin(ids, torch.tensor(tokens, device=ids.device))
