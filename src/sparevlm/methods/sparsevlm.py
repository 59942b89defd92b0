"""SparseVLM: words that look at the picture rate its tokens; some of the dropped are recycled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens, averaged
from sparevlm.methods.picking import largest
from sparevlm.methods.settings import check_flag
from sparevlm.tokens import Reduction

# Tokens of 576 behind layers 2, 6 and 15 of 32, recycled ones among them, that the program leaves
# with its settings 192, 128 and 64 (300 + 9, 200 + 4, 110 + 3; ...).
_PUBLISHED = ((309, 204, 113), (312, 117, 39), (82, 32, 18))
_LAYERS = (2, 6, 15)
_RECYCLED, _PER_CLUSTER = 0.3, 10


@dataclass(frozen=True)
class SparseVLM(DecoderMethod):
    """Text-guided sparsification (arXiv 2410.04417, ICML 2025).

    After layers 2, 6 and 15 of 32, counted from 0 (in proportion elsewhere), the tokens stay to
    which raters pay most in that layer (softmax, means over heads and raters). Raters are chosen
    once, by embeddings: words behind the picture, of which visual tokens' softmax over these words
    gives more than the mean. Of the dropped, the best 30 % are clustered by density peaks, a
    cluster for every ten, and the mean of a cluster takes the place of its centre.

    All this is the authors' program of the paper (not SparseVLM+), with these differences. There
    recycled tokens come on top of the budget, here they count among the kept. There positions are
    renumbered, here kept (as in SparseVLM+). There equal densities are told apart by noise, here by
    order. Its settings 192, 128 and 64 of 576 are averages that take layer 2 as shortened already
    and recycled tokens as none (2 x 576, 4 x 300, 10 x 200, 16 x 110: 191). What its layers get is
    206.5, 145.4 and 82.2, and that is what ``keep`` counts. Proportions between stages are those of
    the setting that is nearest.

    Parameters
    ----------
    recycle : bool
        Whether dropped tokens are recycled.
    """

    name: ClassVar[str] = "sparsevlm"
    paper: ClassVar[str] = "arXiv 2410.04417"
    keeps: ClassVar[str] = (
        "what words that look at the picture attend to, at three depths; recycles some of the rest"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_attention", "decoder_embeddings"})
    merges: ClassVar[bool] = True

    recycle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "recycle")

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """See `DecoderMethod.stages`."""
        places: list[int] = []
        for layer in _LAYERS:  # distinct, in models of few layers too
            place = round(layers * layer / 32) + 1
            places.append(max(place, places[-1] + 1 if places else 1))
        counts = min(_PUBLISHED, key=lambda counts: abs(_average(counts) / 576 - share))
        return {place: count / counts[-1] for place, count in zip(places, counts, strict=True)}

    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """See `DecoderMethod.choose`."""
        scores = tokens.attention(raters(tokens)).mean(0)
        order = largest(scores, len(scores))
        best, again = divided(len(order), k) if self.recycle else (k, 0)
        if best < 1 or not again:
            return Reduction.picked(order[:k], scores=scores)
        kept, pool = order[:best], order[best : best + again]
        centres, means_of = clustered(tokens.features[pool].float(), k - best)
        features = torch.cat((tokens.features[kept], means_of.to(tokens.features.dtype)))
        return Reduction.picked(torch.cat((kept, pool[centres])), features, scores=scores)


def _average(counts: tuple[int, int, int]) -> float:
    """Tokens of 576, on average over 32 layers."""
    schedule = {layer + 1: count for layer, count in zip(_LAYERS, counts, strict=True)}
    return averaged(schedule, 32, 576)


def raters(tokens: LayerTokens) -> Tensor:
    """Words [R], int64, that rate visual tokens: those alike to them more than words on average.

    Each of all tokens that the picture had spreads a softmax over the words behind it, by products
    of embeddings; a word's mean counts.
    """
    words = tokens.words_behind()
    visual, text = (part.float() for part in tokens.embeddings())
    means = (visual @ text[words].T).softmax(1).mean(0)
    above = means > means.mean()
    return words[above] if bool(above.any()) else words


def divided(n: int, k: int) -> tuple[int, int]:
    """Of n tokens by their score, how many are kept, and how many of the next are clustered.

    As many are kept as leave room for the clusters, so that both together make k; (0, 0) where no
    room is left.
    """
    for best in range(k - 1, 0, -1):
        again = int(_RECYCLED * (n - best)) + 1
        if best + again // _PER_CLUSTER + 1 == k:
            return best, again
    return 0, 0


def clustered(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density-peak clusters: centres [count], int64, and the mean of each cluster [count, D].

    A row's density is exp(-mean squared distance to its nearest rows, itself among them, as many
    as there are clusters); centres are those of the largest density times distance to the next
    denser row (Rodriguez and Laio 2014). rows [N, D].
    """
    distances = torch.cdist(rows, rows) / rows.shape[1] ** 0.5
    density = (-distances.topk(count, largest=False).values.square().mean(1)).exp()
    # Of equal density, the earlier row counts as denser.
    place = torch.arange(len(rows), device=rows.device)
    equal = (density == density[:, None]) & (place < place[:, None])
    denser = (density > density[:, None]) | equal
    away = distances.masked_fill(~denser, torch.inf).amin(1)
    away = torch.where(away.isinf(), distances.max(), away)
    centres = largest(density * away, count)
    nearest = distances[:, centres].argmin(1)
    nearest[centres] = torch.arange(count, device=rows.device)
    sums = rows.new_zeros(count, rows.shape[1]).index_add_(0, nearest, rows)
    return centres, sums / nearest.bincount(minlength=count)[:, None]
