"""FasterVLM: keep what the class token looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class FasterVLM(PickingMethod):
    """[CLS] attention (arXiv 2412.01818v1).

    Keep the k tokens with the largest mean over heads of the class token's attention, in the
    encoder layer whose output the projector reads. A tower without a class token has the attention
    that a token receives in its place.
    """

    name: ClassVar[str] = "fastervlm"
    paper: ClassVar[str] = "arXiv 2412.01818v1"
    keeps: ClassVar[str] = "what the class token looks at"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention"})

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        checked_rows(tokens.features)
        scores = tokens.attention().mean(0)
        return Reduction.picked(largest(scores, k), scores=scores)
