"""What a pruning method sees and gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sparevlm.encoder import FirstLayer, Projector

_NO_LENGTH = 1e-12  # what is shorter has no direction


@dataclass(frozen=True, eq=False)
class Query:
    """The picture and the question of a prompt in one space, for methods that need "query".

    Attributes
    ----------
    patches : Tensor [N, C]
        One row a visual token.
    texts : Tensor [M, C]
        One row a text segment (CLIP) or a text token (language-model embeddings).
    source : str
        "clip" or "llm": where both came from.
    """

    patches: Tensor
    texts: Tensor
    source: str = "clip"

    def similarity(self) -> Tensor:
        """Cosine of every patch with every text, averaged over the texts: [N], float32."""
        return similarities([self])[0]

    def _along(self, direction: Tensor) -> Tensor:
        """Product [N] of a direction [C] with every patch at length 1."""
        patches = self.patches.float()
        lengths = torch.linalg.vector_norm(patches, dim=-1)
        return (patches @ direction) / lengths.clamp(min=_NO_LENGTH)


def similarities(queries: Sequence[Query]) -> list[Tensor]:
    """`Query.similarity` of several pictures; texts that they share are looked at once.

    The mean of cosines with texts is the product with the mean of the texts at length 1.
    """
    directions = {
        id(texts): _directions(texts.float()).mean(0)
        for texts in {id(query.texts): query.texts for query in queries}.values()
    }
    return [query._along(directions[id(query.texts)]) for query in queries]


def _directions(rows: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return rows / lengths.clamp(min=_NO_LENGTH)


@dataclass(frozen=True, eq=False)
class VisualTokens:
    """The visual tokens of one picture (or of all pictures of a prompt), as the decoder gets them.

    Attributes
    ----------
    features : Tensor [N, D]
        One row a token, after the projector; any floating dtype.
    grid : (int, int) or None
        Rows and columns of patches with rows * columns = N; None where tokens form no grid.
    candidates : Tensor [N], bool, or None
        False for separators (row ends, tile marks), which are never kept; None: all True. On the
        CPU no one waits for it.
    query : Query or None
        For methods that need "query"; None where the prompt has no text or nothing can compare it.
    encoder_attention : Tensor [H, N], or tuple of them, or None
        For methods that need "encoder_attention": what each head of the vision encoder gives each
        token, one entry for each `AttentionOf` of the method.
    encoder_keys : Tensor [N, H, C], or [N, C], or None
        For methods that need "encoder_keys": each head's key of each token.
    projector : Projector or None
        For methods that need "projector": its input rows, and the projector itself.
    encode : callable or None
        For methods that need "encoder": rows, columns -> features [rows * columns, D] of the
        picture shrunk to so many patches.
    first_layer : FirstLayer or None
        For methods that need "first_layer".
    """

    features: Tensor
    grid: tuple[int, int] | None = None
    candidates: Tensor | None = None
    query: Query | None = None
    encoder_attention: Tensor | tuple[Tensor, ...] | None = None
    encoder_keys: Tensor | None = None
    projector: Projector | None = None
    encode: Callable[[int, int], Tensor] | None = None
    first_layer: FirstLayer | None = None

    def __len__(self) -> int:
        return self.features.shape[0]

    def candidate_features(self) -> Tensor:
        """Rows [n, D] of the tokens that may be kept."""
        return self.features if self.candidates is None else self.features[self.candidate_indices()]

    def candidate_count(self) -> int:
        """How many tokens may be kept."""
        return len(self) if self.candidates is None else int(self.candidates.sum())

    def candidate_indices(self) -> Tensor:
        """Indices [n] of the tokens that may be kept, ascending, int64."""
        if self.candidates is None:
            return torch.arange(len(self.features), device=self.features.device)
        return _places(self.candidates, self.features.device)

    def only_candidates(self) -> VisualTokens:
        """The same picture without its separators; without a grid if there were any."""
        if self.candidates is None:
            return self
        if bool(self.candidates.all()):
            return replace(self, candidates=None)
        return replace(self.subset(self.candidates), candidates=None)

    def subset(self, at: Tensor) -> VisualTokens:
        """The tokens at a mask [N], without a grid."""
        candidates = self.candidates
        if candidates is not None:
            candidates = candidates[at.to(candidates.device)]
        at = _places(at, self.features.device)
        weights = self.encoder_attention
        attention: tuple[Tensor, ...] | None = None
        if weights is not None:
            parts = weights if isinstance(weights, tuple) else (weights,)
            attention = tuple(part[..., at] for part in parts)
        query, projector = self.query, self.projector
        return VisualTokens(
            features=self.features[at],
            candidates=candidates,
            query=None if query is None else replace(query, patches=query.patches[at]),
            encoder_attention=attention,
            encoder_keys=None if self.encoder_keys is None else self.encoder_keys[at],
            projector=None
            if projector is None
            else replace(projector, states=projector.states[at]),
            encode=self.encode,
            first_layer=self.first_layer,
        )

    def attention(self, which: int = 0) -> Tensor:
        """Attention [H, N] that the encoder gives each token, float32 (float64 for float64).

        `which` counts the method's `AttentionOf`s; a single tensor stands for all of them.

        Raises
        ------
        ValueError
            If there is none, or it fits not the tokens.
        """
        weights = self.encoder_attention
        if weights is None:
            raise ValueError(
                "the vision encoder's attention is missing: attach the method to a model, or give "
                "VisualTokens(encoder_attention=[heads, tokens])"
            )
        part = weights[which] if isinstance(weights, tuple) else weights
        return _per_token(part[None] if part.ndim == 1 else part, "encoder_attention", len(self), 1)

    def keys(self) -> Tensor:
        """Keys [N, H, C] of the vision encoder, float32 (float64 for float64).

        Raises
        ------
        ValueError
            If there are none, or they fit not the tokens.
        """
        states = self.encoder_keys
        if states is None:
            raise ValueError(
                "the vision encoder's keys are missing: attach the method to a model, or give "
                "VisualTokens(encoder_keys=[tokens, heads, channels])"
            )
        return _per_token(
            states[:, None] if states.ndim == 2 else states, "encoder_keys", len(self), 0
        )

    def states(self) -> Tensor:
        """What goes into the projector [N, C]; the features where that was not captured."""
        return self.features if self.projector is None else self.projector.states

    def project(self, states: Tensor) -> Tensor:
        """Rows of `states`' kind [M, C] as features [M, D]."""
        return states if self.projector is None else self.projector(states)


def _places(mask: Tensor, device: torch.device) -> Tensor:
    """Where a mask [N] is True, ascending, on a device; a mask on the CPU is not waited for."""
    return mask.nonzero()[:, 0].to(device, non_blocking=True)


def _per_token(values: Tensor, name: str, n: int, axis: int) -> Tensor:
    if values.shape[axis] != n:
        raise ValueError(
            f"{name} of shape {list(values.shape)} is for {values.shape[axis]} tokens, not {n}: "
            "give one entry a visual token, without the class token"
        )
    values = values.detach()
    return values if values.dtype == torch.float64 else values.float()


def joined(pictures: list[VisualTokens]) -> VisualTokens:
    """The tokens of several pictures as one, without a grid; the picture itself if there is one.

    Raises
    ------
    ValueError
        If they hold what cannot be joined: a callable `encode`.
    """
    first = pictures[0]
    if len(pictures) == 1:
        return first
    if first.encode is not None:
        raise ValueError('this method treats each picture by itself: use per="image"')

    def together(name: str) -> Any:
        parts = [getattr(picture, name) for picture in pictures]
        return None if parts[0] is None else torch.cat(parts)

    attention = first.encoder_attention
    if attention is not None:
        kinds = range(len(attention) if isinstance(attention, tuple) else 1)
        attention = tuple(torch.cat([p.attention(i) for p in pictures], 1) for i in kinds)
    projector = first.projector
    if projector is not None:
        states = torch.cat([p.states() for p in pictures])
        projector = replace(projector, states=states, class_state=None)
    candidates = None
    if any(picture.candidates is not None for picture in pictures):
        candidates = torch.cat([
            torch.ones(len(p), dtype=torch.bool)
            if p.candidates is None else p.candidates.cpu() for p in pictures
        ])  # fmt: skip
    return VisualTokens(
        features=together("features"),
        candidates=candidates,
        encoder_attention=attention,
        encoder_keys=together("encoder_keys"),
        projector=projector,
        first_layer=first.first_layer,
    )


@dataclass(frozen=True, eq=False)
class Reduction:
    """What a method keeps of one `VisualTokens`.

    Attributes
    ----------
    indices : Tensor [k], int64
        Kept tokens, ascending and distinct.
    features : Tensor [k, D] or None
        Rows to put in their places, for methods that merge; None: the rows themselves.
    scores : Tensor [N] or None
        A number for every token, for pictures: what the method found worth keeping, or relevance.
    order : Tensor [k], int64, or None
        `indices` in the order picked, for methods that pick one after the other.
    residual : Tensor [k + 1] or None
        Relative squared residual after 0 .. k tokens, for methods that compute it anyway.
    weights : Tensor [N] or None
        The weights of that residual, where they are not all 1 (0 for separators).
    """

    indices: Tensor
    features: Tensor | None = None
    scores: Tensor | None = None
    order: Tensor | None = None
    residual: Tensor | None = None
    weights: Tensor | None = None

    @classmethod
    def picked(cls, order: Tensor, features: Tensor | None = None, **rest: Any) -> Reduction:
        """Of tokens [k] in the order picked, with rows [k, D] to put in their places."""
        indices, rank = order.sort()
        return cls(indices, None if features is None else features[rank], order=order, **rest)

    def among(self, candidates: Tensor, n: int) -> Reduction:
        """The reduction of n tokens, of which this one saw only `candidates` [m], ascending."""
        if len(candidates) == n:
            return self

        def spread(values: Tensor | None, fill: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            rest = values.new_zeros(n) if fill is None else fill.repeat(n)
            return rest.index_copy(0, candidates, values)

        return replace(
            self,
            indices=candidates[self.indices],
            order=None if self.order is None else candidates[self.order],
            scores=None if self.scores is None else spread(self.scores, self.scores.min()),
            weights=spread(self.weights, None),
        )


def check_reduction(reduction: Any, tokens: VisualTokens, who: str) -> None:
    """Raise ValueError where a method broke the contract of `Reduction`."""
    check_form(reduction, tokens, who)
    check_indices(reduction.indices, tokens, who)


def check_form(reduction: Any, tokens: VisualTokens, who: str) -> None:
    """The part of `check_reduction` that no value is read for."""
    if not isinstance(reduction, Reduction):
        raise ValueError(f"{who}.reduce gave {type(reduction).__name__}: it must give a Reduction")
    indices = reduction.indices
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(
            f"{who}.reduce gave indices of shape {list(indices.shape)} and {indices.dtype}: "
            "they must be [k] and int64"
        )
    rows, size = reduction.features, (len(indices), tokens.features.shape[1])
    if rows is not None and tuple(rows.shape) != size:
        raise ValueError(
            f"{who}.reduce gave features of shape {list(rows.shape)}: they must be {list(size)}"
        )


def check_indices(indices: Tensor, tokens: VisualTokens, who: str) -> None:
    """The part of `check_reduction` that looks at the indices, on any device."""
    n = len(tokens)
    places = indices.cpu().numpy()  # of which a look costs a fifth
    inside = len(places) == 0 or (
        places[0] >= 0 and places[-1] < n and bool((places[1:] > places[:-1]).all())
    )
    if not inside:
        raise ValueError(
            f"{who}.reduce gave indices that are not ascending, distinct and in [0, {n})"
        )
    candidates = tokens.candidates
    if candidates is not None and not bool(candidates[indices.to(candidates.device)].all()):
        raise ValueError(f"{who}.reduce kept a separator: keep only tokens.candidates")
