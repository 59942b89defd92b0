"""What everything that is attached to a model shares."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from sparevlm.report import Report

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod
    from sparevlm.methods.staged import Staged

# Methods and not handles: a handle holds its model, which would then never be freed.
_ATTACHED: weakref.WeakKeyDictionary[Any, PruningMethod | Staged] = weakref.WeakKeyDictionary()


class Attached(ABC):
    """A method attached to a model.

    Attributes
    ----------
    method : PruningMethod or Staged
    report : Report, a list of ImageReport
        One entry a picture, or frame of a video, of the last call that had any: of the thread that
        asks, or, where that made none, of any (an answer that is streamed comes from another).
    columns : Tensor [B, L'], int64, or None
        Which column of the user's `input_ids` each column of the last call's output is, logits and
        hidden states: of the call of the thread that asks. -1 where a row was padded; on the CPU.
        None before the first call, and after one that was given embeddings.
    attention_mask : Tensor [B, L'] or None
        The attention mask of those columns: zeros are padding.

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

    @property
    @abstractmethod
    def columns(self) -> Tensor | None:
        """See above."""

    @property
    @abstractmethod
    def attention_mask(self) -> Tensor | None:
        """See above."""

    @property
    @abstractmethod
    def prompt_length(self) -> int:
        """Columns of the `input_ids` of the present thread's last call."""

    def take(self, values: Tensor, fill: float = 0) -> Tensor:
        """What a tensor says of the columns of the last call's output.

        Parameters
        ----------
        values : Tensor [B, L, ...]
            One entry for each of the user's `input_ids`: labels, a mask, weights.
        fill : int or float
            For columns that pad.

        Returns
        -------
        Tensor [B, L', ...]
            On the device of `values`.

        Raises
        ------
        ValueError
            If no call was made, or the shape is not that of its `input_ids`.
        """
        if self.columns is None:
            raise ValueError("there was no call with input_ids yet: call the model first")
        columns = self.columns.to(values.device)
        wanted = [len(columns), self.prompt_length]
        if values.ndim < 2 or list(values.shape[:2]) != wanted:
            raise ValueError(
                f"a tensor of shape {list(values.shape)} does not fit the last call, whose "
                f"input_ids had the shape {wanted}: give one entry for each of them"
            )
        rest = (1,) * (values.ndim - 2)
        index = columns.clamp(min=0).view(*columns.shape, *rest)
        taken = values.gather(1, index.expand(*columns.shape, *values.shape[2:]))
        return taken.masked_fill((columns < 0).view(*columns.shape, *rest), fill)

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

    def __repr__(self) -> str:
        state = "" if self._attached else ", detached"
        return f"<{type(self).__name__}: {self.method} on {type(self._model).__name__}{state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()
