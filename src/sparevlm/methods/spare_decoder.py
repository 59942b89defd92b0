"""SPARE between layers of the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens
from sparevlm.methods.settings import check_count
from sparevlm.selection import select
from sparevlm.tokens import Reduction


@dataclass(frozen=True)
class SPAREDecoder(DecoderMethod):
    """Column subset selection of hidden states: SPARE's, after ``layer`` decoder layers. Ours.

    The tokens whose hidden states best span those of all visual tokens stay (pivoted selection, no
    guidance); by then they have read each other, and the words before them.

    Parameters
    ----------
    layer : int
        Layers that see all tokens.
    """

    name: ClassVar[str] = "spare-decoder"
    paper: ClassVar[str] = ""
    keeps: ClassVar[str] = "hidden states that span the others after two layers"
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_states"})

    layer: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "layer")

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """See `DecoderMethod.stages`."""
        return {self.layer: 1.0}

    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """See `DecoderMethod.choose`."""
        selection = select(tokens.features, k)
        return Reduction.picked(selection.order, residual=selection.residual)
