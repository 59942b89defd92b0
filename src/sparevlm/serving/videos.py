"""Videos that cannot be served are refused in the front end, in one sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vllm.exceptions import VLLMValidationError
from vllm.multimodal.parse import VideoProcessorItems

from sparevlm.budgets import is_integer
from sparevlm.serving.settings import KEY, Settings


def frames_in(given: Mapping[str, Any]) -> int:
    """Frames, or steps in time, of a video's arguments for the encoder; a picture has one."""
    if "video_grid_thw" in given:
        return int(given["video_grid_thw"].data[0])
    if "video_num_patches" in given:
        return int(given["video_num_patches"].data)
    if "pixel_values_videos" in given:
        return len(given["pixel_values_videos"].data)
    return 1


def check_sizes(data: Mapping[str, Any]) -> None:
    """Refuse a video whose frames differ in size, before vLLM makes one array of them.

    Raises
    ------
    VLLMValidationError
        Naming the sizes.
    """
    videos = data.get("video")
    for video in [videos, *(videos if isinstance(videos, list) else ())]:
        frames = video[0] if isinstance(video, tuple) and len(video) == 2 else video
        if not isinstance(frames, list):
            continue
        sizes = [_size(frame) for frame in frames]
        if None not in sizes and len(set(sizes)) > 1:
            listed = " and ".join(" x ".join(map(str, size)) for size in _first(sizes, 2))
            raise _refused(
                f"the frames of a video must be of one size, and these are of {listed}: resize them"
            )


def check_number(videos: Any, config: Any) -> None:
    """Refuse a video of more frames than the server's limit.

    Raises
    ------
    VLLMValidationError
        Naming both numbers.
    """
    options = config.multimodal_config.limit_per_prompt.get("video")
    limit = getattr(options, "num_frames", None)
    if limit is None or not isinstance(videos, VideoProcessorItems):
        return
    for video in videos.get_all():
        frames = video[0] if isinstance(video, tuple) else video  # beside what is known of it
        if frames is not None and len(frames) > limit:
            raise _refused(
                f"a video of {len(frames)} frames is more than the {limit} that this server takes "
                "(num_frames of --limit-mm-per-prompt): send fewer frames"
            )


def check_budget(settings: Settings, available: int) -> None:
    """Refuse a share that leaves no token of a frame of so many.

    Raises
    ------
    VLLMValidationError
        Saying what would do.
    """
    keep: Any = settings.method.keep
    if not is_integer(keep) and round(float(keep) * available) < 1:
        raise _refused(
            f"keep={keep} leaves less than one of a frame's {available} tokens: give at least "
            f'{1 / available:.2g}, or per="prompt", which may leave none of some frames'
        )


def _refused(sentence: str) -> VLLMValidationError:
    return VLLMValidationError(f"{KEY}: {sentence}", parameter=KEY)


def _size(frame: Any) -> tuple[int, ...] | None:
    """Width and height of a picture, or an array's shape; None of anything else."""
    size = frame.size if hasattr(frame, "getbands") else getattr(frame, "shape", None)
    return tuple(size) if isinstance(size, tuple) and len(size) in (2, 3) else None


def _first(values: Iterable[Any], count: int) -> list[Any]:
    return list(dict.fromkeys(values))[:count]
