"""TransPrune: keep the tokens that layers change most, and that words attend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens
from sparevlm.methods.picking import largest
from sparevlm.methods.settings import check_flag
from sparevlm.tokens import Reduction

# Of 32 layers, those that first get fewer tokens, and the share of the tokens that they get.
_PUBLISHED = {7: 0.875, 9: 0.625, 12: 0.125}
_TINY = 1e-8


@dataclass(frozen=True)
class TransPrune(DecoderMethod):
    """Token transitions (arXiv 2507.20630, CVPR 2026).

    At layers 7, 9 and 12 of 32 (in proportion elsewhere) the tokens of the largest t_i + a_i stay.
    t: the sum, over the attention and the feed-forward part of each layer from the one before the
    first stage on, of |out_i| / |in_i| times the softmax over all columns of 1 - cos(in_i, out_i),
    where in is what goes into the part, normed, and out what comes out of it; a: the attention that
    words behind the picture pay in the layer that gets fewer tokens (mean over words and heads), as
    it would compute it of all tokens still there. Both are divided by their sum over the picture.
    Stages keep 7/8, 5/8 and 1/8 of the tokens; with other budgets they keep these proportions, as
    far as there are tokens. Positions stay; the authors' program renumbers them.

    Parameters
    ----------
    guided : bool
        Whether the words' attention counts; False is the paper's "TTV alone".
    """

    name: ClassVar[str] = "transprune"
    paper: ClassVar[str] = "arXiv 2507.20630"
    keeps: ClassVar[str] = "what layers change most and words attend to, at three depths"
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_next_attention", "decoder_changes"})

    guided: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "guided")

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """See `DecoderMethod.stages`."""
        places: list[int] = []
        for layer in _PUBLISHED:  # distinct, in models of few layers too
            place = max(1, round(layers * layer / 32))
            places.append(max(place, places[-1] + 1 if places else 1))
        last = min(_PUBLISHED.values())
        shares = (share / last for share in _PUBLISHED.values())
        return dict(zip(places, shares, strict=True))

    def watched(self, layers: int) -> Sequence[int]:
        """See `DecoderMethod.watched`."""
        stages = self.stages(layers)
        return range(min(stages) - 1, max(stages))

    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """See `DecoderMethod.choose`."""
        scores = _share(_transitions(tokens))
        if self.guided:
            scores = scores + _share(tokens.next_attention(tokens.words_behind()).mean(0))
        return Reduction.picked(largest(scores, k), scores=scores)


def _transitions(tokens: LayerTokens) -> Tensor:
    """Token transition variation of each token, summed over all changes: [N], float32."""
    total = torch.zeros(len(tokens), device=tokens.features.device)
    for change in tokens.changes():
        turned = (1 - change.cosines).exp() / (1 - change.all_cosines).exp().sum()
        total += (change.ratios * turned).to(total.device)
    return total


def _share(values: Tensor) -> Tensor:
    """Values [N] as parts of their sum."""
    return values / (values.sum() + _TINY)
