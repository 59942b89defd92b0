"""What travels with a picture or video from the front end to the worker: they cannot disagree."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from sparevlm.serving.settings import Settings


class Run(NamedTuple):
    """Tokens of one kind in a row: a picture, a frame (a step in time), or equal words."""

    token: int
    length: int
    visual: bool


class Part(NamedTuple):
    """A picture or video of an item: its kind, and its runs, first to last."""

    modality: str
    first: int
    last: int


@dataclass(frozen=True)
class PrunedItem:
    """A picture, a video, or all of a prompt that are chosen among jointly.

    Attributes
    ----------
    settings : Settings
        With a count as budget: of each picture or frame, or of all together (`per="prompt"`).
    runs : tuple of Run
        What stands in its place without pruning, words between frames too.
    parts : tuple of Part
        Its pictures and videos, in the order of the prompt.
    """

    settings: Settings
    runs: tuple[Run, ...]
    parts: tuple[Part, ...]

    @property
    def joint(self) -> bool:
        """Whether one budget is for all of it."""
        return self.settings.method.per == "prompt"

    @property
    def original(self) -> bool:
        """Whether kept tokens keep their positions in the whole prompt."""
        return self.settings.method.positions == "original"

    @property
    def count(self) -> int:
        """Tokens that one budget keeps."""
        return int(self.settings.method.keep)  # type: ignore[arg-type]

    @property
    def units(self) -> list[int]:
        """Visual tokens of each picture or frame."""
        return [run.length for run in self.runs if run.visual]

    @property
    def total(self) -> int:
        """Visual tokens that the encoder makes."""
        return sum(self.units)

    @property
    def kept(self) -> int:
        """Visual tokens that stay."""
        return self.count * (1 if self.joint else len(self.units))

    @property
    def starts(self) -> list[int]:
        """Where each run begins, and, last, how long all of them are."""
        return [0, *accumulate(run.length for run in self.runs)]

    def whole(self) -> list[int]:
        """Token ids without pruning."""
        return _tokens((run.token, run.length) for run in self.runs)

    def shortened(self) -> list[int]:
        """Token ids that stand in the prompt.

        Where a budget is for several frames, how many stay of each is not known before they are
        encoded: as good as equal numbers stand for them.
        """
        number = len(self.units)
        left = iter(
            [self.kept * (i + 1) // number - self.kept * i // number for i in range(number)]
        )
        return _tokens((run.token, next(left) if run.visual else run.length) for run in self.runs)

    def to_tensor(self) -> Tensor:
        """As bytes [n], uint8."""
        runs = [[run.token, run.length, int(run.visual)] for run in self.runs]
        values = {"runs": runs, "parts": self.parts, **self.settings.as_dict()}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, data: Tensor) -> PrunedItem:
        """What `to_tensor` gave."""
        rest = json.loads(data.cpu().numpy().tobytes())
        runs = tuple(Run(token, length, bool(visual)) for token, length, visual in rest.pop("runs"))
        parts = tuple(Part(*part) for part in rest.pop("parts"))
        return cls(Settings.from_dict(rest), runs, parts)


def runs_of(tokens: Sequence[int], visual: Sequence[bool], frames: int) -> list[Run]:
    """The runs of a picture's or video's tokens; `visual` says which of them are not words.

    A picture has one frame. Where no words stand between the frames of a video, they are equally
    long, and what cannot be divided belongs to the last.
    """
    runs: list[Run] = []
    for token, seen in zip(tokens, visual, strict=True):
        if runs and runs[-1].token == token and runs[-1].visual == seen:
            runs[-1] = runs[-1]._replace(length=runs[-1].length + 1)
        else:
            runs.append(Run(token, 1, bool(seen)))
    places = [i for i, run in enumerate(runs) if run.visual]
    if len(places) != 1 or frames == 1:
        return runs
    (place,) = places
    token, length, _ = runs[place]
    each = length // frames
    sizes = [each] * (frames - 1) + [length - each * (frames - 1)]
    return [*runs[:place], *(Run(token, size, True) for size in sizes), *runs[place + 1 :]]


def _tokens(runs: Iterable[tuple[int, int]]) -> list[int]:
    return [token for token, length in runs for _ in range(length)]
