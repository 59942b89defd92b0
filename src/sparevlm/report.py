"""What was done to each picture and frame of a call."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, SupportsIndex, overload

import torch
from torch import Tensor

from sparevlm.selection import reconstruction_curve, reconstruction_error, svd_bound
from sparevlm.tokens import Reduction, VisualTokens

SHOWN = 24  # pictures that a notebook shows of a report
LISTED = 8  # lines of a report in a console


class Timer:
    """Times a block: wall time, or on a CUDA device that of its stream, which is read later."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._found: float | None = None

    def __enter__(self) -> Timer:
        self._began = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = self._now()

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    @property
    def milliseconds(self) -> float:
        """How long it took; waits for a device where that is not known yet."""
        if self._found is None:
            if self._device.type == "cuda":
                self._ended.synchronize()
                self._found = float(self._began.elapsed_time(self._ended))
            else:
                self._found = 1e3 * (self._ended - self._began)
            del self._began, self._ended
        return self._found

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (self.milliseconds,)  # events cannot be copied


class Share:
    """A part of a timed block, of several alike."""

    def __init__(self, timer: Timer, parts: int) -> None:
        self._timer, self._parts = timer, parts

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return self._timer.milliseconds / self._parts

    def __reduce__(self) -> tuple[type[float], tuple[float]]:
        return float, (self.milliseconds,)


class Timers(list[Timer]):
    """Several blocks that count as one."""

    @property
    def milliseconds(self) -> float:
        """How long all took."""
        return sum(timer.milliseconds for timer in self)


class _Read:
    """A field that is given a number or what timed, and reads as a number."""

    def __get__(self, report: Any, owner: Any = None) -> float:
        if report is None:
            raise AttributeError  # the field has no default
        value = vars(report)["milliseconds"]
        return value.milliseconds if isinstance(value, Timer | Timers | Share) else value

    def __set__(self, report: Any, value: float | Timer | Timers | Share) -> None:
        vars(report)["milliseconds"] = value


@dataclass(eq=False)
class ImageReport:
    """One picture or frame of a video, or all that share a budget.

    It holds the features until `residual` was asked for.

    Attributes
    ----------
    before, after : int
        Visual tokens the encoder gave, and visual tokens the language model got.
    indices : Tensor [after], int64
        Kept tokens, ascending.
    milliseconds : float
        Time of the selection, relevance included: wall time, on a CUDA device its stream's.
    order : Tensor [after] or None
        Kept tokens in the order picked.
    curve : Tensor [after + 1] or None
        Relative squared residual, with the method's weights, after each pick.
    weights : Tensor [before] or None
        The weights of `curve`; None: all 1. With them `svd_bound` gives the least it could be.
    scores : Tensor [before] or None
        One number a token, as the method gave it: for SPARE the similarity with the question.
    grid : (int, int) or None
        Rows and columns of patches.
    row : int
        Which prompt of the batch the picture belongs to.
    kind : "image" or "video"
        What the (first) placeholder stands for.
    shares : tuple of int
        How many of the kept tokens come from each picture or frame, in the order of the prompt.
    stages : dict or None
        For methods inside the language model: {layer: tokens [k], int64, that it and later layers
        get}; `after` and `indices` are the last stage's.
    average : float or None
        Tokens on average over the layers, with stages.
    pixels : Tensor [3, H, W] or None
        What the encoder saw, where that is one picture.
    method : str
        Name of the method; of two in turn, both.
    """

    before: int
    after: int
    indices: Tensor = field(repr=False)
    milliseconds: _Read = _Read()
    order: Tensor | None = field(default=None, repr=False)
    curve: Tensor | None = field(default=None, repr=False)
    scores: Tensor | None = field(default=None, repr=False)
    weights: Tensor | None = field(default=None, repr=False)
    grid: tuple[int, int] | None = None
    row: int = 0
    kind: str = "image"
    shares: tuple[int, ...] = ()
    stages: dict[int, Tensor] | None = field(default=None, repr=False)
    average: float | None = None
    pixels: Tensor | None = field(default=None, repr=False)
    method: str = ""
    _features: Tensor | None = field(default=None, repr=False)
    _merged: Tensor | None = field(default=None, repr=False)
    _residual: float | None = field(default=None, repr=False)

    @property
    def tokens(self) -> float:
        """Tokens on average over the language model's layers; `after` without stages."""
        return self.after if self.average is None else self.average

    @property
    def residual(self) -> float:
        """Relative squared residual of all tokens, unweighted; computed when first asked for.

        What the language model got explains it: merged rows, for methods that merge. Its first
        layer, that is: 0 for methods that drop inside it.
        """
        error = self._error()
        self._features = self._merged = None
        return error

    def _error(self) -> float:
        """The residual, with the features left to who shows a report before asking for a curve."""
        if self._residual is None:
            self._residual = 0.0
            if self._features is not None:
                self._residual = _unexplained(self._features, self.indices, self._merged)
        return self._residual

    @property
    def caption(self) -> str:
        """Method, tokens, residual and time in words."""
        if self.stages is not None:  # the first layer got everything
            return self._counted() + self._timed()
        error = f"; {100 * self._error():.1f} % of the features' energy is not explained"
        return self._counted() + error + self._timed()

    def _counted(self) -> str:
        who = f"{self.method}: " if self.method else ""
        words = f"{who}{self.after} of {self.before} visual tokens"
        if self.average is None:
            return words
        return f"{words} in the last layers, {self.average:.1f} on average"

    def _timed(self) -> str:
        return f"; chosen in {self.milliseconds:.1f} ms" if self.after < self.before else ""

    def reconstruction(self) -> tuple[Tensor, Tensor]:
        """How much is left unexplained after each pick, and the least that could be, unweighted.

        Any method that picks in an order has it, so that methods can be compared. To be asked for
        before `residual`, which drops the features.

        Returns
        -------
        curve, bound : Tensors [after + 1], float64
            `reconstruction_curve` along `order`, and `svd_bound`.

        Raises
        ------
        ValueError
            If the method picked in no order or merged tokens, or the features are gone.
        """
        if self.order is None or self._merged is not None or self._features is None:
            raise ValueError(
                "there is no curve: the method picks in no order or merges tokens, keeps "
                "everything, or the features were dropped when `residual` was asked for"
            )
        bound = svd_bound(self._features)[: len(self.order) + 1]
        return reconstruction_curve(self._features, self.order), bound

    @classmethod
    def of(
        cls,
        tokens: VisualTokens,
        reduction: Reduction,
        timer: Timer | Share,
        row: int,
        kind: str,
        shares: tuple[int, ...],
        method: str,
    ) -> ImageReport:
        """Describe a reduction."""
        return cls(
            before=len(tokens),
            after=len(reduction.indices),
            indices=reduction.indices,
            milliseconds=timer,
            order=reduction.order,
            curve=reduction.residual,
            scores=reduction.scores,
            weights=reduction.weights,
            grid=tokens.grid,
            row=row,
            kind=kind,
            shares=shares,
            method=method,
            _features=tokens.features.detach(),
            _merged=reduction.features,
        )

    @classmethod
    def untouched(
        cls, tokens: VisualTokens, row: int, kind: str, shares: tuple[int, ...], method: str
    ) -> ImageReport:
        """Describe a picture of which everything was kept."""
        n = len(tokens)
        everything = torch.arange(n, device=tokens.features.device)
        return cls(
            n, n, everything, 0.0, grid=tokens.grid, row=row, kind=kind, shares=shares,
            method=method,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """Notebooks show it as a picture."""
        from sparevlm.viz import report_html  # matplotlib only where it is needed

        return report_html(self)


class Report(list[ImageReport]):
    """Reports of one call: a list that notebooks show as pictures, and consoles as a line each."""

    @overload
    def __getitem__(self, at: SupportsIndex) -> ImageReport: ...
    @overload
    def __getitem__(self, at: slice) -> Report: ...
    def __getitem__(self, at: SupportsIndex | slice) -> ImageReport | Report:
        """One entry, or a part that shows itself as the whole does."""
        return Report(super().__getitem__(at)) if isinstance(at, slice) else super().__getitem__(at)

    def __repr__(self) -> str:
        lines = [f"[{i}] {one._counted()}{one._timed()}" for i, one in enumerate(self[:LISTED])]
        if len(self) > LISTED:
            lines.append(f"... {len(self) - LISTED} more")
        return "\n".join(lines) or "[] (no picture)"

    def _repr_html_(self) -> str:
        shown = "".join(image._repr_html_() for image in self[:SHOWN]) or "<p>no picture</p>"
        if len(self) > SHOWN:
            shown += f"<p>{len(self) - SHOWN} more: take a part, such as [{SHOWN}:]</p>"
        return shown


def _unexplained(features: Tensor, indices: Tensor, merged: Tensor | None) -> float:
    """Share of the features' energy outside the span of the kept, or merged, rows."""
    if merged is None:
        return float(reconstruction_error(features, indices))
    both = torch.cat([features, merged.to(features)])
    weights = torch.ones(len(both), device=both.device)
    weights[len(features) :] = 0  # they explain, and need no explanation
    rows = torch.arange(len(features), len(both), device=both.device)
    return float(reconstruction_error(both, rows, weights))
