"""What is done to each call of a model: one record, from `attach` down to the encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparevlm.budgets import is_integer
from sparevlm.encoder import FirstLayer
from sparevlm.families import Family
from sparevlm.guide import Guide
from sparevlm.hf.first_layer import first_layer_of
from sparevlm.hf.guidance import Guidance, make_guidance
from sparevlm.hf.supported import find_family

if TYPE_CHECKING:
    from sparevlm.methods.base import PruningMethod


@dataclass(frozen=True, eq=False)
class Pruning:
    """A method at work on a model.

    Attributes
    ----------
    method : PruningMethod
        One that works before the language model.
    model
        A supported transformers model.
    family : Family
        Facts about it.
    guidance : Guidance or None
        What compares the question with the picture, for methods that ask.
    """

    method: PruningMethod
    model: Any
    family: Family
    guidance: Guidance | None
    inside: bool = False
    """Whether another method follows inside the language model."""
    first_layer: FirstLayer | None = None
    """Of the language model, for methods that ask."""

    @property
    def drops(self) -> bool:
        """Whether it can drop anything at all."""
        keep = self.method.keep
        return self.inside or is_integer(keep) or keep != 1.0

    @classmethod
    def of(
        cls, method: PruningMethod, model: Any, guide: Guide, *, inside: bool = False
    ) -> Pruning:
        """Find what the method needs.

        Raises
        ------
        ValueError
            If the model is not supported, or guidance cannot be had.
        """
        family = find_family(model)
        guidance = None
        if "query" in method.requires:
            guidance = make_guidance(model, family, method.compares, guide)
        layer = first_layer_of(model) if "first_layer" in method.requires else None
        return cls(method, model, family, guidance, inside, layer)
