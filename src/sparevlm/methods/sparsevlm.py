"""SparseVLM: words that look at the picture rate its tokens; some of the dropped are recycled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens
from sparevlm.methods.picking import largest
from sparevlm.methods.settings import check_flag
from sparevlm.tokens import Reduction

# Tokens of 576 that the published settings leave at layers 2, 6 and 15 of 32, by their average.
_PUBLISHED = {192: (300, 200, 110), 128: (303, 110, 36), 64: (66, 30, 17)}
_LAYERS = (2, 6, 15)
_RECYCLED, _PER_CLUSTER, _NEIGHBOURS = 0.3, 10, 5


@dataclass(frozen=True)
class SparseVLM(DecoderMethod):
    """Text-guided sparsification (arXiv 2410.04417, ICML 2025).

    At layers 2, 6 and 15 of 32 (in proportion elsewhere), raters are the words that pay the visual
    tokens more attention than words do on average, in the layer before; the tokens to which raters
    pay most stay. Of the dropped, the best 30 % are clustered by density peaks, a cluster for every
    ten, and the mean of a cluster takes the place of its centre: recycled tokens count among the
    kept. Proportions between stages are those of the published budget that is nearest (192, 128 or
    64 of 576 on average).

    Parameters
    ----------
    recycle : bool
        Whether dropped tokens are recycled.
    """

    name: ClassVar[str] = "sparsevlm"
    paper: ClassVar[str] = "arXiv 2410.04417"
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_attention"})
    merges: ClassVar[bool] = True

    recycle: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "recycle")

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """See `DecoderMethod.stages`."""
        places: list[int] = []
        for layer in _LAYERS:  # distinct, in models of few layers too
            place = max(1, round(layers * layer / 32))
            places.append(max(place, places[-1] + 1 if places else 1))
        nearest = min(_PUBLISHED, key=lambda average: abs(average / 576 - share))
        counts = _PUBLISHED[nearest]
        return {place: count / counts[-1] for place, count in zip(places, counts, strict=True)}

    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """See `DecoderMethod.choose`."""
        words = torch.arange(len(tokens.text), device=tokens.features.device)
        paid = tokens.attention(words)
        means = paid.mean(1)
        scores = paid[means >= means.mean()].mean(0)
        order = largest(scores, len(scores))
        pool = order[k:][: int(_RECYCLED * (len(order) - k))]
        clusters = min(len(pool) // _PER_CLUSTER + 1, k - 1)
        if not self.recycle or clusters < 1 or len(pool) == 0:
            return Reduction.picked(order[:k], scores=scores)
        kept = order[: k - clusters]
        pool = torch.cat((order[k - clusters : k], pool))
        centres, means_of = clustered(tokens.features[pool].float(), clusters)
        features = torch.cat((tokens.features[kept], means_of.to(tokens.features.dtype)))
        return Reduction.picked(torch.cat((kept, pool[centres])), features, scores=scores)


def clustered(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Density-peak clusters: centres [count], int64, and the mean of each cluster [count, D].

    A row's density is exp(-mean squared distance to its nearest rows); centres are those of the
    largest density times distance to the next denser row (Rodriguez and Laio 2014). rows [N, D].
    """
    distances = torch.cdist(rows, rows) / rows.shape[1] ** 0.5
    near = min(_NEIGHBOURS, len(rows))
    density = (-distances.topk(near, largest=False).values.square().mean(1)).exp()
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
