"""Image and video processors, made small: the real ones, and stand-ins without torchvision.

What `AutoProcessor` gives depends on torchvision: with it the processors of pictures that it runs,
and real ones of videos; without it those that PIL runs, and none of videos. A stand-in takes their
place then. The families' own processors write the prompts around what either returns, so that the
layout of the placeholders is the true one.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import VideosKwargs
from transformers.utils import is_torchvision_available
from transformers.video_utils import VideoMetadata, make_batched_videos

REAL = is_torchvision_available()
RATE = 4.0  # frames a second
MEAN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
HEIGHT, WIDTH = 48, 64  # of frames, where a grid of any shape is possible
FRAMES = 6  # of this size are all that a budget for a whole video leaves room for


def image_processor(name: str, **settings: Any) -> Any:
    """A family's processor of pictures, as `AutoProcessor` would choose it."""
    return getattr(tf, f"{name}ImageProcessor" + ("" if REAL else "Pil"))(**settings)


def square_frames(name: str, side: int = 56, pixels: str = "pixel_values_videos") -> Any:
    """A family's processor of videos whose frames are squares."""
    if not REAL:
        return SquareFrames(side, pixels)
    square = {"height": side, "width": side}
    settings = {
        "LlavaNextVideo": {"size": {"shortest_edge": side}, "crop_size": square},
        # Checkpoints say under this name what is sampled.
        "SmolVLM": {
            "video_sampling": {"fps": 1, "max_frames": 8, "video_size": {"longest_edge": 2 * side}},
            "max_image_size": {"longest_edge": side},
        },
    }.get(name, {"size": square})
    return getattr(tf, f"{name}VideoProcessor")(**settings, **MEAN)


def grid_frames(name: str, *, whole: bool) -> Any:
    """A family's processor of videos of any shape; `whole`: its limit is for all of a video."""
    if not REAL:
        return GridFrames(whole=whole)
    most = HEIGHT * WIDTH * (FRAMES if whole else 1)
    size = {"shortest_edge": 16**2, "longest_edge": most}
    return getattr(tf, f"{name}VideoProcessor")(
        size=size, patch_size=8, temporal_patch_size=2, merge_size=2, **MEAN
    )


def times(frames: int) -> VideoMetadata:
    """What a user knows of a video: when each of its frames was."""
    return VideoMetadata(
        total_num_frames=frames, fps=RATE, duration=frames / RATE, frames_indices=[*range(frames)]
    )


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

    def __call__(
        self, videos: Any, video_metadata: Any = None, return_tensors: Any = "pt", **options: Any
    ) -> BatchFeature:
        videos = make_batched_videos(videos)
        data = {self.name: np.stack([scaled(video, self.size, self.size) for video in videos])}
        several = BatchFeature(data, tensor_type="pt")
        several["video_metadata"] = video_metadata or [times(len(video)) for video in videos]
        return several


class GridFrames:
    """Patches of 8 x 8 in `pair` frames, in the order of merged squares of 2 x 2, as Qwen has them.

    `whole`: as many pixels as there may be are those of all frames, which are smaller the more
    there are of them.
    """

    model_input_names = ("pixel_values_videos", "video_grid_thw")
    valid_kwargs = VideosKwargs
    merge_size = 2
    patch_size = 8

    def __init__(self, *, whole: bool = False, pair: int = 2) -> None:
        self.whole, self.temporal_patch_size = whole, pair

    def size(self, frames: int, height: int, width: int) -> list[int]:
        """Height and width that frames are scaled to."""
        share = FRAMES / frames if self.whole else 1.0
        shrink = max(1.0, math.sqrt(height * width / (HEIGHT * WIDTH * share)))
        cell = self.patch_size * self.merge_size
        return [max(cell, int(side / shrink) // cell * cell) for side in (height, width)]

    def __call__(
        self, videos: Any, video_metadata: Any = None, return_tensors: Any = "pt", **options: Any
    ) -> BatchFeature:
        patches, grids = [], []
        side, merge, pair = self.patch_size, self.merge_size, self.temporal_patch_size
        for video in videos:
            height, width = self.size(*np.shape(video)[:3])
            rows, columns = height // side, width // side
            pixels = scaled(video, height, width)
            pixels = np.concatenate([pixels, pixels[-1:].repeat(-len(pixels) % pair, 0)])
            steps = len(pixels) // pair
            cut = pixels.reshape(
                steps, pair, 3, rows // merge, merge, side, columns // merge, merge, side
            )
            patches.append(cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(-1, 3 * pair * side**2))
            grids.append([steps, rows, columns])
        data = {"pixel_values_videos": np.concatenate(patches), "video_grid_thw": np.array(grids)}
        several = BatchFeature(data, tensor_type="pt")
        several["video_metadata"] = video_metadata or [times(len(video)) for video in videos]
        return several


class MergedFrames(GridFrames):
    """Single frames, with the number of patches that are merged, and tokens to keep, as VideoLLaMA.

    `use_token_compression` leaves out tokens, some of each frame; else all are kept.
    """

    def __init__(self) -> None:
        super().__init__(pair=1)
        self.use_token_compression = False

    def __call__(
        self, videos: Any, video_metadata: Any = None, return_tensors: Any = "pt", **options: Any
    ) -> BatchFeature:
        several = super().__call__(videos, video_metadata, return_tensors, **options)
        grids = several["video_grid_thw"]
        several["video_merge_sizes"] = torch.full((len(grids),), self.merge_size)
        tokens = int(grids.prod(1).sum()) // self.merge_size**2
        frame = tokens // int(grids[:, 0].sum())
        number, place = (
            torch.arange(tokens) // frame % int(grids[0, 0]),
            torch.arange(tokens) % frame,
        )
        several["video_compression_mask"] = (place < 4 + number) | (not self.use_token_compression)
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
        known = inspect.signature(tf.Gemma4Model.get_video_features).parameters
        self.stacked = "num_frames_per_video" not in known

    def __call__(
        self, videos: Any, video_metadata: Any = None, return_tensors: Any = "pt", **options: Any
    ) -> BatchFeature:
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
        several["video_metadata"] = video_metadata or [times(count) for count in counts]
        return several


class PooledFrames:
    """Frames of 8 x 8 patches, and which 2 x 2 of them each token is pooled from, as Molmo 2."""

    model_input_names = ("pixel_values_videos", "video_token_pooling", "video_grids")
    valid_kwargs = VideosKwargs

    def __call__(
        self, videos: Any, video_metadata: Any = None, return_tensors: Any = "pt", **options: Any
    ) -> BatchFeature:
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
        several["video_metadata"] = video_metadata or [times(count) for count in counts]
        return several
