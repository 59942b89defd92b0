"""Two methods one after the other: before the language model, and between its layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparevlm.engine import Attachment, engine_of
from sparevlm.methods.base import PruningMethod, name_of
from sparevlm.methods.in_decoder import DecoderMethod


@dataclass(frozen=True)
class Staged:
    """Prune before the language model, and what is left once more inside it.

    The budget of ``then`` counts the tokens that the language model gets: a share is one of those
    that ``first`` left, and so is the average over layers.

    Parameters
    ----------
    first : PruningMethod
        Works before the language model.
    then : DecoderMethod
        Works between its layers.

    Raises
    ------
    TypeError
        If the two are not such methods, in this order.
    ValueError
        If their budgets do not cover the same (``per``).
    """

    first: PruningMethod
    then: DecoderMethod

    def __post_init__(self) -> None:
        if not isinstance(self.first, PruningMethod) or isinstance(self.first, DecoderMethod):
            raise TypeError(f"first must be a method that works before the decoder: {self.first!r}")
        if not isinstance(self.then, DecoderMethod):
            raise TypeError(f"then must be a method that works inside the decoder: {self.then!r}")
        if self.first.per != self.then.per:
            raise ValueError(
                f"first has per={self.first.per!r} and then {self.then.per!r}: give both the same"
            )

    @property
    def name(self) -> str:
        """Both names."""
        return f"{name_of(self.first)}, then {name_of(self.then)}"

    def attach(self, model: Any, **options: Any) -> Attachment:
        """Prune in every call of a model until detached. See `sparevlm.attach`."""
        return engine_of(model).attach(self, model, **options)

    __call__ = attach
