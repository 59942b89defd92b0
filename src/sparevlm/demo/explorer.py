"""What the page asks of a model: what a method keeps at every budget, and what is answered then."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparevlm import asking, hf
from sparevlm.methods import get_method, method_class, read_method

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL import Image

    from sparevlm.hf import ImageReport
    from sparevlm.methods import PruningMethod


@dataclass(frozen=True)
class Look:
    """A question about a picture.

    Attributes
    ----------
    picture : PIL.Image.Image
    question : str
    inputs : BatchFeature
        What the model is given for both.
    tokens : int
        Visual tokens of the picture.
    full : Answer
        With all of them.
    """

    picture: Image.Image
    question: str
    inputs: Any
    tokens: int
    full: asking.Answer


@dataclass(frozen=True)
class Ranks:
    """One order for all budgets.

    Attributes
    ----------
    ranks : list of int
        For each token, how many are picked before it; -1: never picked.
    curve, bound : lists of float
        Share of the feature energy left unexplained with the first 0, 1, .. tokens, and the least
        that so many directions leave.
    report : ImageReport
    """

    ranks: list[int]
    curve: list[float]
    bound: list[float]
    report: ImageReport


@dataclass(frozen=True)
class Said:
    """An answer with a budget."""

    answer: asking.Answer
    report: ImageReport


class Explorer:
    """A loaded model that many people may ask, one at a time.

    Parameters
    ----------
    model, processor
        As `sparevlm.load` gives them.
    max_new_tokens : int
        Longest answer.
    fields : mapping or None
        Settings of methods, by their names: ``{"spare": {"strength": 0.5}}``.

    Raises
    ------
    ValueError
        If a method does not take its settings.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        max_new_tokens: int = 64,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.processor = processor
        self._fields = {name: dict(values) for name, values in (fields or {}).items()}
        check_fields(self._fields)
        self._model, self._longest = model, max_new_tokens
        self._lock = threading.Lock()  # a model is pruned for one call at a time

    def label(self, name: str) -> str:
        """A method's class, with the settings that it was given."""
        given = ", ".join(f"{key}={value!r}" for key, value in self._fields.get(name, {}).items())
        return method_class(name).__name__ + (f"({given})" if given else "")

    def _method(self, name: str, keep: int) -> PruningMethod:
        return read_method(name, keep, self._fields.get(name))

    def look(self, picture: Image.Image, question: str) -> Look:
        """Ask with all tokens.

        Raises
        ------
        ValueError
            If the question cannot be asked, or the picture is more than one run of tokens.
        """
        inputs = asking.prepare(self._model, self.processor, [picture], question)
        with self._lock:
            full = asking.answer(self._model, self.processor, inputs, self._longest)
            (report,) = hf.preview(get_method("uniform", 1.0), self._model, inputs)
        return Look(picture, question, inputs, report.before, full)

    def ranks(self, look: Look, name: str) -> Ranks | None:
        """The order in which a method picks, which serves every budget; None: it has no such order.

        Raises
        ------
        ValueError
            If the method does not work with this model.
        """
        if not method_class(name).nested:
            return None
        most = look.tokens - 1
        while most > 0:
            method = self._method(name, most)
            with self._lock:
                (report,) = hf.preview(
                    method, self._model, look.inputs, tokenizer=self.processor.tokenizer,
                    question=look.question,
                )  # fmt: skip
            if report.order is not None:
                break
            most = report.after - 1  # some are separators, which no budget counts
        else:
            return None
        curve, bound = report.reconstruction()
        ranks = [-1] * report.before
        for rank, token in enumerate(report.order.tolist()):
            ranks[token] = rank
        return Ranks(ranks, curve.tolist(), bound.tolist(), report)

    def said(self, look: Look, name: str, keep: int) -> Said:
        """Ask with a method and a budget.

        Raises
        ------
        ValueError
            If the method does not work with this model, or not with this budget.
        """
        method = self._method(name, keep)
        with (
            self._lock,
            method.attach(
                self._model, tokenizer=self.processor.tokenizer, question=look.question
            ) as handle,
        ):
            answer = asking.answer(self._model, self.processor, look.inputs, self._longest, handle)
        return Said(answer, answer.report[0])


def check_fields(fields: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError unless each method takes its settings, and the page can show it."""
    for name, values in fields.items():
        if values.get("per") == "tile":
            raise ValueError("per='tile' cannot be shown: the page has one budget for a picture")
        read_method(name, 1.0, values)
