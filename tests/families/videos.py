"""Image and video processors, made small: the real ones, and stand-ins without torchvision.

What `AutoProcessor` gives depends on torchvision: with it the processors of pictures that it runs,
and real ones of videos; without it those that PIL runs, and none of videos. A stand-in takes their
place then. The families' own processors write the prompts around what either returns, so that the
layout of the placeholders is the true one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
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
    """Patches of 8 x 8 in two frames, in the order of merged squares of 2 x 2, as Qwen has them.

    `whole`: as many pixels as there may be are those of all frames, which are smaller the more
    there are of them.
    """

    model_input_names = ("pixel_values_videos", "video_grid_thw")
    valid_kwargs = VideosKwargs
    merge_size = temporal_patch_size = 2
    patch_size = 8

    def __init__(self, *, whole: bool = False) -> None:
        self.whole = whole

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
