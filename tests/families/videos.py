"""Stand-ins for video processors, which cannot be imported without torchvision.

The families' own processors write the prompts around what these return, so that the layout of the
placeholders is the true one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.video_utils import VideoMetadata, make_batched_videos

RATE = 4.0  # frames a second


def scaled(frames: Sequence[Any], height: int, width: int) -> np.ndarray:
    """Frames as [F, 3, height, width], normalised."""
    pictures = [
        np.asarray(Image.fromarray(np.asarray(frame)).resize((width, height))) for frame in frames
    ]
    return (np.stack(pictures).transpose(0, 3, 1, 2) / 255 - 0.5) / 0.25


class SquareFrames:
    """Frames scaled to one square."""

    model_input_names = ("pixel_values_videos",)
    valid_kwargs = VideosKwargs
    patch_size = 14
    num_frames, fps = 8, 1  # asked for by templates, pictures or not

    def __init__(self, size: int = 56, name: str = "pixel_values_videos") -> None:
        self.size, self.name = size, name

    def __call__(self, videos: Any, return_tensors: Any = "pt", **options: Any) -> BatchFeature:
        videos = make_batched_videos(videos)
        data = {self.name: np.stack([scaled(video, self.size, self.size) for video in videos])}
        several = BatchFeature(data, tensor_type="pt")
        several["video_metadata"] = [_times(len(video)) for video in videos]
        return several


class GridFrames:
    """Patches of 8 x 8 in `pair` frames, in the order of merged squares of 2 x 2, as Qwen's."""

    model_input_names = ("pixel_values_videos", "video_grid_thw")
    valid_kwargs = VideosKwargs
    merge_size = 2
    patch_size = 8

    def __init__(self, height: int = 48, width: int = 64, pair: int = 2) -> None:
        self.height, self.width, self.temporal_patch_size = height, width, pair

    def __call__(self, videos: Any, return_tensors: Any = "pt", **options: Any) -> BatchFeature:
        patches, grids = [], []
        side, merge, pair = self.patch_size, self.merge_size, self.temporal_patch_size
        rows, columns = self.height // side, self.width // side
        for video in videos:
            pixels = scaled(video, self.height, self.width)
            steps = len(pixels) // pair
            cut = pixels.reshape(
                steps, pair, 3, rows // merge, merge, side, columns // merge, merge, side
            )
            patches.append(cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * pair * side**2))
            grids.append([steps, rows, columns])
        data = {"pixel_values_videos": np.concatenate(patches), "video_grid_thw": np.array(grids)}
        several = BatchFeature(data, tensor_type="pt")
        several["video_metadata"] = [_times(len(video)) for video in videos]
        return several


class MergedFrames(GridFrames):
    """Single frames, with the number of patches that are merged, and tokens to keep, as VideoLLaMA.

    `thin` leaves out tokens, some of each frame; else all are kept.
    """

    def __init__(self) -> None:
        super().__init__(pair=1)
        self.thin = False

    def __call__(self, videos: Any, return_tensors: Any = "pt", **options: Any) -> BatchFeature:
        several = super().__call__(videos, return_tensors, **options)
        grids = several["video_grid_thw"]
        several["video_merge_sizes"] = torch.full((len(grids),), self.merge_size)
        tokens = int(grids.prod(1).sum()) // self.merge_size**2
        several["video_compression_mask"] = torch.arange(tokens) % 6 < (4 if self.thin else 6)
        return several


class PlacedFrames:
    """Patches row by row with the place of each, padded to one length, as Gemma 4 has them.

    Where the model is not told how many frames a video has, all have as many.
    """

    model_input_names = ("pixel_values_videos", "video_position_ids", "num_frames_per_video")
    valid_kwargs = VideosKwargs
    length = 60

    def __init__(self, patch: int = 8, pooled: int = 2) -> None:
        self.patch_size, self.pooling_kernel_size = patch, pooled
        known = inspect.signature(transformers.Gemma4Model.get_video_features).parameters
        self.stacked = "num_frames_per_video" not in known

    def __call__(self, videos: Any, return_tensors: Any = "pt", **options: Any) -> BatchFeature:
        side, rows, columns = (
            self.patch_size,
            3 * self.pooling_kernel_size,
            4 * self.pooling_kernel_size,
        )
        frames, counts = [], []
        for video in make_batched_videos(videos):
            pixels = scaled(video, rows * side, columns * side)
            cut = pixels.reshape(len(pixels), 3, rows, side, columns, side)
            cut = cut.transpose(0, 2, 4, 3, 5, 1).reshape(len(pixels), rows * columns, -1)
            frames.append(np.pad(cut, ((0, 0), (0, self.length - rows * columns), (0, 0))))
            counts.append(len(pixels))
        places = np.stack(np.meshgrid(range(columns), range(rows)), -1).reshape(-1, 2)
        places = np.pad(places, ((0, self.length - len(places)), (0, 0)), constant_values=-1)
        data = {
            "pixel_values_videos": np.concatenate(frames),
            "video_position_ids": np.stack([places] * sum(counts)),
            "num_frames_per_video": np.array(counts),
        }
        if self.stacked:
            apart = (len(counts), data.pop("num_frames_per_video")[0])
            data = {name: rows.reshape(*apart, *rows.shape[1:]) for name, rows in data.items()}
        several = BatchFeature(data, tensor_type="pt")
        tokens = rows * columns // self.pooling_kernel_size**2
        several["num_soft_tokens_per_video"] = [tokens] * len(counts)
        several["video_metadata"] = [_times(count) for count in counts]
        return several


class PooledFrames:
    """Frames of 8 x 8 patches, and which 2 x 2 of them each token is pooled from, as Molmo 2."""

    model_input_names = ("pixel_values_videos", "video_token_pooling", "video_grids")
    valid_kwargs = VideosKwargs

    def __call__(self, videos: Any, return_tensors: Any = "pt", **options: Any) -> BatchFeature:
        frames, counts = [], []
        for video in make_batched_videos(videos):
            pixels = scaled(video, 56, 56).reshape(-1, 3, 8, 7, 8, 7)
            frames.append(pixels.transpose(0, 2, 4, 3, 5, 1).reshape(-1, 64, 3 * 7**2))
            counts.append(len(pixels))
        places = np.arange(64 * sum(counts)).reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
        data = {
            "pixel_values_videos": np.concatenate(frames),
            "video_token_pooling": places.reshape(-1, 4),
            "video_grids": np.array([[count, 4, 4] for count in counts]),
        }
        several = BatchFeature(data, tensor_type="pt")
        several["video_metadata"] = [_times(count) for count in counts]
        return several


def _times(frames: int) -> VideoMetadata:
    return VideoMetadata(
        total_num_frames=frames, fps=RATE, duration=frames / RATE, frames_indices=[*range(frames)]
    )
