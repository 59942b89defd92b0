"""Stand-ins for video processors, which cannot be imported without torchvision.

The families' own processors write the prompts around what these return, so that the layout of the
placeholders is the true one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
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
    """Patches of 8 x 8 in two frames, in the order of merged squares of 2 x 2, as Qwen has them."""

    model_input_names = ("pixel_values_videos", "video_grid_thw")
    valid_kwargs = VideosKwargs
    merge_size = temporal_patch_size = 2
    patch_size = 8

    def __init__(self, height: int = 48, width: int = 64) -> None:
        self.height, self.width = height, width

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


def _times(frames: int) -> VideoMetadata:
    return VideoMetadata(
        total_num_frames=frames, fps=RATE, duration=frames / RATE, frames_indices=[*range(frames)]
    )
