"""What everything that is attached to a model shares."""

from __future__ import annotations

import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sparevlm.report import Report

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod
    from sparevlm.methods.staged import Staged

# Methods and not handles: a handle holds its model, which would then never be freed.
_ATTACHED: weakref.WeakKeyDictionary[Any, PruningMethod | Staged] = weakref.WeakKeyDictionary()


class Attached:
    """A method attached to a model.

    Attributes
    ----------
    method : PruningMethod or Staged
    report : Report, a list of ImageReport
        One entry a picture, or frame of a video, of the last call that had any: of the thread that
        asks, or, where that made none, of any (an answer that is streamed comes from another).

    Raises
    ------
    ValueError
        If the model is pruned already.
    """

    def __init__(self, method: PruningMethod | Staged, model: Any, *, part: bool = False) -> None:
        self._part = part  # of another, which stands for both
        if model in _ATTACHED and not part:
            raise ValueError(
                f"this model is already pruned by {_ATTACHED[model]}: "
                "detach that first, nested pruning is not possible"
            )
        self.method = method
        self._own = threading.local()
        self._latest = Report()
        self._model = model
        self._hooks: list[Any] = []
        self._attached = True
        if not part:
            _ATTACHED[model] = method

    @property
    def report(self) -> Report:
        """See above."""
        own: Report | None = getattr(self._own, "report", None)
        return self._latest if own is None else own

    @report.setter
    def report(self, report: Report) -> None:
        self._own.report = self._latest = report

    @property
    def model(self) -> Any:
        """What it is attached to."""
        return self._model

    def detach(self) -> None:
        """Take everything off the model; a second call does nothing."""
        if self._attached:
            self._attached = False
            if not self._part:
                del _ATTACHED[self._model]
            self._take_off()

    def _take_off(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("this model is pruned: detach before copying or saving the whole model")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()
