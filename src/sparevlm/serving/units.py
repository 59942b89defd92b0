"""Pictures and frames of the items that a worker is to encode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparevlm.serving.arguments import Arguments, cut, one_of, opened
from sparevlm.serving.item import PrunedItem
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(eq=False)
class Unit:
    """A picture, or a frame (a step in time) of a video.

    Attributes
    ----------
    item : PrunedItem
    part : Given
    frame, size : int
        Its place in the video, and its tokens.
    last : bool
        Whether its budget covers nothing after it.
    ends : bool
        Whether it is the last of its picture or video.
    features, tokens
        What the encoder gave; once chosen from, the rows [k, D] that stay, and None.
    indices : Tensor [k] or None
        Which tokens stay, once chosen.
    """

    item: PrunedItem
    part: Given
    frame: int
    size: int
    last: bool
    ends: bool
    features: Tensor | None = None
    tokens: VisualTokens | None = None
    indices: Tensor | None = None


@dataclass(eq=False)
class Given:
    """A picture or video of an item, with the encoder's arguments as if it had come alone."""

    modality: str
    arguments: Arguments
    units: list[Unit] = field(default_factory=list)

    def frames(self, first: int, last: int) -> Arguments:
        """The arguments for some of its frames."""
        return cut(self.arguments, first, last, len(self.units))


def parts_of(item: PrunedItem, arguments: Mapping[str, Any], place: int) -> list[Given]:
    """The pictures and videos of the item at a place among those that came at once."""
    if len(item.parts) == 1:
        return [Given(item.parts[0].modality, one_of(arguments, place))]
    own = opened({name: value[place] for name, value in arguments.items()}, len(item.parts))
    return [Given(part.modality, given) for part, given in zip(item.parts, own, strict=True)]


def units_of(item: PrunedItem, parts: list[Given]) -> list[Unit]:
    """All pictures and frames of an item, which are its parts' too from now on."""
    found = []
    for part, given in zip(item.parts, parts, strict=True):
        sizes = [run.length for run in item.runs[part.first : part.last] if run.visual]
        ends = len(sizes) - 1
        given.units = [
            Unit(item, given, i, size, last=not item.joint, ends=i == ends)
            for i, size in enumerate(sizes)
        ]
        found += given.units
    found[-1].last = True
    return found


def grouped(units: list[Unit]) -> list[list[Unit]]:
    """Units that share a budget, together; the last group may lack some that are to come."""
    groups: list[list[Unit]] = []
    for unit in units:
        if not groups or groups[-1][-1].last:
            groups.append([])
        groups[-1].append(unit)
    return groups


def leave(group: list[Unit], reduction: Reduction) -> None:
    """Let go of all rows of a group but those that a reduction keeps."""
    borders = torch.tensor([0, *(unit.size for unit in group)]).cumsum(0)
    cuts = [0, len(reduction.indices)]
    if len(group) > 1:  # else the host need not wait
        cuts = torch.searchsorted(reduction.indices.cpu(), borders).tolist()
    for i, unit in enumerate(group):
        assert unit.features is not None and unit.tokens is not None
        indices = reduction.indices[cuts[i] : cuts[i + 1]] - int(borders[i])
        rows = unit.features[indices]
        if reduction.features is not None:
            merged = reduction.features[cuts[i] : cuts[i + 1]]
            rows = torch.cat([merged, rows[:, merged.shape[1] :]], 1)
        unit.features, unit.tokens, unit.indices = rows, None, indices
