"""PyramidDrop: half of the tokens at each of three depths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens
from sparevlm.methods.picking import largest
from sparevlm.tokens import Reduction


@dataclass(frozen=True)
class PyramidDrop(DecoderMethod):
    """Stages of dropping inside the decoder (arXiv 2410.17247, CVPR 2025).

    Before layers 8, 16 and 24 of 32, counted from 0 (a quarter, half and three quarters of them),
    the tokens stay to which the prompt's last word pays most: each stage half of those before. As
    in the authors' program, that is the attention that the coming layer would compute, by its own
    norm, queries and keys, of all tokens still there (softmax, mean over heads). With other
    budgets the stages keep these proportions (4 : 2 : 1), as far as there are tokens. The program
    then renumbers positions; ours keeps them, which works with positions of several axes too.
    """

    name: ClassVar[str] = "pyramiddrop"
    paper: ClassVar[str] = "arXiv 2410.17247"
    keeps: ClassVar[str] = "what the last word attends to, at three depths, each half of the last"
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_next_attention"})

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """See `DecoderMethod.stages`."""
        places = [round(layers * quarter / 4) for quarter in (1, 2, 3)]
        return dict(zip(places, (4.0, 2.0, 1.0), strict=True))

    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """See `DecoderMethod.choose`."""
        scores = tokens.last_next_attention()
        return Reduction.picked(largest(scores, k), scores=scores)
