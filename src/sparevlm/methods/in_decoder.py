"""The base class of methods that drop visual tokens inside the language model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparevlm.budgets import budget_tokens
from sparevlm.methods.base import PruningMethod
from sparevlm.methods.settings import check_flag
from sparevlm.tokens import Reduction, VisualTokens

Schedule = dict[int, int]  # decoder layer: tokens of a picture that it and later layers get


@dataclass(frozen=True, eq=False)
class Change:
    """What one part of one layer, its attention or its feed-forward part, did to tokens.

    In is what goes into the part, after the layer's norm; out is what comes out of it, before it is
    added to the rest.

    Attributes
    ----------
    layer : int
        Index of the layer.
    part : "attention" or "feed-forward"
    ratios : Tensor [N], float32
        |out| / |in| of each visual token.
    cosines : Tensor [N], float32
        Cosine of in and out of each visual token.
    all_cosines : Tensor [L], float32
        The same of all columns of the call that the layer got, words and every picture's tokens.
    """

    layer: int
    part: Literal["attention", "feed-forward"]
    ratios: Tensor
    cosines: Tensor
    all_cosines: Tensor


@dataclass(frozen=True, eq=False)
class LayerTokens:
    """The visual tokens of one picture at a decoder layer that gets fewer of them.

    Attributes
    ----------
    layer : int
        Index of that layer, from 0.
    features : Tensor [N, D]
        Hidden states of the tokens that are left, as the layer would get them.
    indices : Tensor [N], int64
        Which tokens of the picture these are, ascending.
    text : Tensor [M, D]
        Hidden states of the prompt's words, in order.
    behind : Tensor [M], bool
        Which of these words come behind the picture.
    keys, text_keys : Tensor [N, C] and [M, C]
        Their keys in the layer before, after rotation, all heads side by side.
    attention : callable
        Which words [R], int64 -> attention [R, N] that these pay to the tokens in the layer before,
        float32, mean over heads; of each word's softmax over all that it sees.
    next_attention : callable
        The same in `layer` itself, which has not run, as if it got all tokens that are left: from
        its own queries of these words and its keys. For methods whose `needs` names
        "decoder_next_attention".
    embeddings : callable
        Nothing -> what the first layer got: Tensor [P, D] of all tokens that the picture had
        then, and [M, D] of the words. For methods whose `needs` names "decoder_embeddings".
    received : callable
        Nothing -> attention [N], float32, that each token gets from all other columns of the call
        on average, pictures and words, mean over heads; those before it pay none.
    norm : callable
        The language model's last norm, which makes hidden states comparable.
    changes : callable
        Nothing -> a `Change` for each part of each layer of `DecoderMethod.watched` that has run,
        in that order. For methods whose `needs` names "decoder_changes".
    """

    layer: int
    features: Tensor
    indices: Tensor
    text: Tensor
    behind: Tensor
    keys: Tensor
    text_keys: Tensor
    attention: Callable[[Tensor], Tensor]
    next_attention: Callable[[Tensor], Tensor]
    embeddings: Callable[[], tuple[Tensor, Tensor]]
    received: Callable[[], Tensor]
    norm: Callable[[Tensor], Tensor]
    changes: Callable[[], tuple[Change, ...]]

    def __len__(self) -> int:
        return len(self.features)

    def last_attention(self) -> Tensor:
        """What the last word of the prompt pays to each token: [N], float32."""
        return self.attention(self._last)[0]

    def last_next_attention(self) -> Tensor:
        """What it will pay in the coming layer (`next_attention`): [N], float32."""
        return self.next_attention(self._last)[0]

    @property
    def _last(self) -> Tensor:
        return torch.tensor([len(self.text) - 1], device=self.features.device)

    def words_behind(self) -> Tensor:
        """Which words [R], int64, come behind the picture; all, where none does."""
        found = self.behind.nonzero()[:, 0]
        return found if len(found) else torch.arange(len(self.text), device=self.text.device)


@dataclass(frozen=True)
class DecoderMethod(PruningMethod):
    """A method that drops visual tokens between two layers of the language model.

    Tokens keep their positions. ``keep`` is what a picture has on average over all layers, as
    papers state it, so that methods with other schedules can be compared at equal cost; with
    ``average=False`` it is what the last stage leaves.

    Parameters
    ----------
    keep : int or float
        Tokens of a picture on average over the layers, or the fraction of them in (0, 1].
    average : bool
        Whether ``keep`` is that average; False: what the last stage leaves.
    positions : "auto" or "original"
        The same: tokens keep their positions.
    """

    inside: ClassVar[bool] = True
    _: KW_ONLY
    average: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "average")
        if self.positions == "compact":
            raise ValueError(
                f"{type(self).__name__} drops tokens after their positions were used, and keeps "
                'them: positions must be "auto" or "original"'
            )

    @abstractmethod
    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """Where tokens are dropped: {layer: how many times the last stage's tokens it is given}.

        Layers ascend from 1 on; the last number is 1. A layer named here is the first that gets
        fewer tokens. ``share`` is the budget's, for methods whose proportions depend on it.
        """

    def watched(self, layers: int) -> Sequence[int]:
        """Layers whose `Change`s are recorded for `choose`, for methods that need them."""
        return ()

    @abstractmethod
    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """Choose k of the N > k tokens left; merged tokens take the places of kept ones."""

    def schedule(self, layers: int, tokens: int) -> Schedule:
        """Tokens of a picture from each stage on.

        Parameters
        ----------
        layers : int
            Of the language model.
        tokens : int
            That the picture has.

        Raises
        ------
        ValueError
            If the model has too few layers, or an average lies below what the layers before the
            first stage cost alone.
        """
        self.check_layers(layers)
        wanted = budget_tokens(self.keep, tokens)  # type: ignore[arg-type]
        stages = self.stages(layers, wanted / tokens)
        if not self.average:
            return self._counts(stages, float(wanted), tokens)
        low, high = 0.0, float(tokens)
        least = averaged(self._counts(stages, low, tokens), layers, tokens)
        if wanted < least:
            raise ValueError(
                f"{type(self).__name__}(keep={self.keep!r}): the layers before the first stage "
                f"alone make an average of {least:.1f} of {tokens} tokens: keep more, drop "
                "earlier, or count what is left at last with average=False"
            )
        for _ in range(60):  # the average grows with the last stage's tokens
            middle = (low + high) / 2
            if averaged(self._counts(stages, middle, tokens), layers, tokens) <= wanted:
                low = middle
            else:
                high = middle
        return self._counts(stages, low, tokens)

    def check_layers(self, layers: int) -> None:
        """Raise ValueError unless a model of so many layers has the stages' layers."""
        stages = self.stages(layers)
        if min(stages) < 1 or max(stages) >= layers:
            raise ValueError(
                f"{self} drops tokens at layers {sorted(stages)}, and this model has {layers}: "
                "choose layers from 1 to the last"
            )

    @staticmethod
    def _counts(stages: dict[int, float], last: float, tokens: int) -> Schedule:
        counts, most = {}, tokens
        for layer in sorted(stages):
            most = min(most, max(1, round(last * stages[layer])))
            counts[layer] = most
        return counts

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Keep all: the language model gets every token."""
        return Reduction(tokens.candidate_indices())


def averaged(schedule: Schedule, layers: int, tokens: int) -> float:
    """Tokens of a picture, on average over the layers."""
    total, left = 0, tokens
    for layer in range(layers):
        left = schedule.get(layer, left)
        total += left
    return total / layers


def check_chosen(reduction: Reduction, tokens: LayerTokens, k: int, who: str) -> None:
    """Raise ValueError unless a method chose k distinct tokens, ascending."""
    indices = reduction.indices
    right = len(indices) == k and bool(
        (indices[0] >= 0) & (indices[-1] < len(tokens)) & (indices[1:] > indices[:-1]).all()
    )
    if not right or (reduction.features is not None and len(reduction.features) != k):
        raise ValueError(f"{who}.choose must give {k} ascending indices in [0, {len(tokens)})")
