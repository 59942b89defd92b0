"""The frames of a video, in what the encoder gives for all of them at once."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.hf.media import Modality

# VideoLLaMA's processor says by it which tokens repeat the frame before; stock drops them.
THINNING = "video_compression_mask"


def grids_of(modality: Modality, arguments: dict[str, Any]) -> Tensor | None:
    """Patches in time, rows and columns [N, 3] of each picture or video; on the CPU.

    None where the arguments of the encoder do not say.
    """
    grids: Tensor | None = arguments.get(modality.grids, arguments.get("video_grids"))
    if grids is not None:
        return grids.cpu()
    shapes: Tensor | None = arguments.get("spatial_shapes")
    if shapes is not None:
        return torch.cat([torch.ones_like(shapes[:, :1]), shapes], 1).cpu()
    places = arguments.get(f"{modality.name}_position_ids")
    if places is None:
        return None
    # Columns and rows of each patch, padded with -1; frames [V, F, P, 2], or of all videos in turn.
    sizes = places.flatten(0, -3).amax(1).flip(1).cpu() + 1
    frames = arguments.get("num_frames_per_video")
    if frames is None:
        frames = torch.ones(len(places)).long() * (places.shape[1] if places.ndim == 4 else 1)
    frames = torch.as_tensor(frames).cpu()
    return torch.cat([frames[:, None], sizes[frames.cumsum(0) - frames]], 1)


def frames_of(
    output: Any, pixels: Tensor, grids: Tensor | None
) -> tuple[list[Tensor], list[list[Tensor]], list[int]]:
    """Features and deeper features, one entry a frame, and the number of the video of each.

    pixels [V, F, ...] and, where the family has them, grids [V, 3] of steps in time (several frames
    may make one step), rows and columns of patches.
    """
    # transformers 5.18 keeps an axis for the frames.
    videos = [rows.flatten(0, -2) for rows in stock.features_of(output)]
    counts = _counts(pixels, grids, len(videos))
    sizes = [_sizes(len(rows), count) for rows, count in zip(videos, counts, strict=True)]
    levels = [_cut(level, sizes) for level in deeper(output)]
    return _cut(videos, sizes), levels, [i for i, count in enumerate(counts) for _ in range(count)]


def thinned(
    output: Any, frames: list[Tensor], sources: list[int], mask: Tensor
) -> tuple[Any, list[Tensor]]:
    """The output and the frames [N_i, D] without what a mask [sum of N_i] leaves out.

    Stock code would leave that out itself, of the features that it is given.
    """
    kept = mask.to(frames[0].device).split([len(rows) for rows in frames])
    frames = [rows[part] for rows, part in zip(frames, kept, strict=True)]
    videos: dict[int, list[Tensor]] = {}
    for source, rows in zip(sources, frames, strict=True):
        videos.setdefault(source, []).append(rows)
    output = copy.copy(output)
    stock.set_features(output, [torch.cat(rows) for rows in videos.values()])
    return output, frames


def video_ends(frames: list[Tensor], *, square: bool) -> list[Tensor | None]:
    """False for what stands after the last of the frames of equal size; on the CPU.

    `square`: frames are squares, which tells the end of a video that has only one.
    """
    rows = min((len(frame) for frame in frames), default=0)
    if square and rows > 1 and math.isqrt(rows - 1) ** 2 == rows - 1:
        rows -= 1
    return [torch.arange(len(frame)) < rows if len(frame) > rows else None for frame in frames]


def deeper(output: Any) -> list[list[Tensor]]:
    """Features for deeper layers of the language model (deepstack), a list a layer."""
    return [list(level) for level in stock.deeper_features(output)]


def _counts(pixels: Tensor, grids: Tensor | None, entries: int) -> list[int]:
    """Frames, or steps in time, of each entry that the encoder gave."""
    if grids is not None:
        return [int(count) for count in grids[:, 0]]
    return [pixels.shape[1] if entries == len(pixels) else 1] * entries


def _sizes(rows: int, count: int) -> list[int]:
    """Rows of each frame; what cannot be divided stands at the end of the video."""
    each = rows // count
    return [each] * (count - 1) + [rows - each * (count - 1)]


def _cut(videos: list[Tensor], sizes: list[list[int]]) -> list[Tensor]:
    return [part for rows, size in zip(videos, sizes, strict=True) for part in rows.split(size)]
