"""FastV: keep what the last word attends to after a few layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens
from sparevlm.methods.picking import largest
from sparevlm.methods.settings import check_choice, check_count
from sparevlm.tokens import Reduction


@dataclass(frozen=True)
class FastV(DecoderMethod):
    """An image is worth half its tokens after layer 2 (arXiv 2403.06764, ECCV 2024).

    After ``layer`` decoder layers the tokens that get most attention in the last of these layers
    (softmax, mean over heads) stay, and keep their positions; the next layer is the first with
    fewer. The authors' program does the same with its K = 2: layer 1, counted from 0, is asked.

    Parameters
    ----------
    layer : int
        Layers that see all tokens.
    asking : "last" or "all"
        Whose attention counts: that of the last word of the prompt, as in the authors' code; or of
        all other tokens on average, by which section 4 of the paper says that tokens are re-ranked.
        That mean is over all other tokens of the prompt, words and visual ones; those that cannot
        see the token count as 0, so that tokens that come first are favoured. It reads every query
        of one layer, in blocks.
    """

    name: ClassVar[str] = "fastv"
    paper: ClassVar[str] = "arXiv 2403.06764"
    keeps: ClassVar[str] = "what the last word attends to after two layers"
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_attention"})

    layer: int = 2
    asking: Literal["last", "all"] = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "layer")
        check_choice(self, "asking", ("last", "all"))

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """See `DecoderMethod.stages`."""
        return {self.layer: 1.0}

    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """See `DecoderMethod.choose`."""
        scores = tokens.last_attention() if self.asking == "last" else tokens.received()
        return Reduction.picked(largest(scores, k), scores=scores)
