"""The encoder's arguments for some of the pictures, or frames of videos, that came at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
_GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}
_COUNTS = {"image": "image_num_patches", "video": "video_num_patches"}
ROWS, ENTRY, SHARED = "rows", "entry", "shared"  # how an argument is given for several
_TIMES = ("second_per_grid_ts", "timestamps")  # no encoder reads them


def modality_of(arguments: Mapping[str, Any]) -> str:
    """What comes: "image" or "video"."""
    return "video" if PIXELS["video"] in arguments else "image"


def grids_of(arguments: Mapping[str, Any]) -> Any:
    """Patches [n, 3] of each in time, rows and columns; None where a family has none."""
    return arguments.get(_GRIDS[modality_of(arguments)])


def one_of(arguments: Mapping[str, Any], place: int) -> Arguments:
    """Those of one picture or video, as if it had come alone."""
    sizes = _rows(arguments)
    own: Arguments = {}
    for name, value in arguments.items():
        if sizes is not None and name in PIXELS.values():
            begin = sum(sizes[:place])
            own[name] = value[begin : begin + sizes[place]]
        elif isinstance(value, Tensor) and value.ndim == 0:
            own[name] = value  # shared by all
        else:
            own[name] = value[place : place + 1]
    return own


def cut(arguments: Arguments, first: int, last: int, frames: int) -> Arguments:
    """Those of frames `first` to `last` alone of a video of `frames`; of a picture all."""
    own = {name: value for name, value in arguments.items() if name not in _TIMES}
    if modality_of(arguments) == "image" or (first, last) == (0, frames):
        return own
    name = PIXELS["video"]
    pixels = own[name]
    if _rows(arguments) is None:
        own[name] = [video[first:last] for video in pixels]
    else:
        each = len(pixels) // frames
        own[name] = pixels[first * each : last * each]
    for name in (_GRIDS["video"], _COUNTS["video"]):
        if name in own:
            own[name] = own[name].clone()
            own[name][..., :1] = last - first
    return own


def joined(parts: Sequence[Arguments]) -> Arguments:
    """Those of several, each as if it had come alone, together."""
    if len(parts) == 1:
        return parts[0]
    return {name: _together([part[name] for part in parts]) for name in parts[0]}


def _together(values: list[Any]) -> Any:
    if all(isinstance(value, Tensor) for value in values):
        if values[0].ndim == 0:
            return values[0]
        if len({value.shape[1:] for value in values}) == 1:
            return torch.cat(values)
    return [row for value in values for row in value]


def _rows(arguments: Mapping[str, Any]) -> list[int] | None:
    """Rows of pixels of each picture or video; None where each has an entry of its own."""
    modality = modality_of(arguments)
    grids, counts = arguments.get(_GRIDS[modality]), arguments.get(_COUNTS[modality])
    if grids is not None:
        sizes: list[int] = torch.as_tensor(grids).prod(-1).tolist()
        return sizes
    if counts is None:
        return None
    return [int(count) for count in counts]


def joint_name(place: int, kind: str, name: str) -> str:
    """What an argument is called for the part at a place of an item of several."""
    return f"{place}:{kind}:{name}"


def opened(values: Mapping[str, Any], count: int) -> list[Arguments]:
    """The arguments of each of `count` parts, as if it had come alone, by their `joint_name`s."""
    parts: list[Arguments] = [{} for _ in range(count)]
    for name, value in values.items():
        place, kind, own = name.split(":")
        alone = value
        if kind == ENTRY:
            alone = value[None] if isinstance(value, Tensor) else [value]
        parts[int(place)][own] = alone
    return parts


def elements_of(data: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """What `data` holds for each of `count` parts, by the names that it has for one alone."""
    if count == 1:
        return [dict(data)]
    parts: list[dict[str, Any]] = [{} for _ in range(count)]
    for joint, value in data.items():
        if ":" in joint:
            place, _, name = joint.split(":")
            parts[int(place)][name] = value
    return parts
