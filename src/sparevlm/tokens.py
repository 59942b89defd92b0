"""What a pruning method sees and gives back, and how a budget is written."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Residual:
    """A budget by quality: as few tokens as leave at most `error` of the energy unexplained.

    Parameters
    ----------
    error : float
        Relative squared residual allowed, in (0, 1): sum_i w_i^2 |x_i - P x_i|^2 over
        sum_i w_i^2 |x_i|^2, with P the projection onto the span of the kept rows and w_i the
        weights of the method (1 without guidance).
    minimum, maximum : int
        Bounds of the number of tokens kept; None: no upper bound.

    Raises
    ------
    ValueError
        If `error` lies outside (0, 1), or the bounds are no positive integers in order.
    """

    error: float
    minimum: int = 1
    maximum: int | None = None

    def __post_init__(self) -> None:
        if not _is_real(self.error) or not 0 < self.error < 1:
            raise ValueError(
                f"Residual(error={self.error!r}): the error must be a number between 0 and 1, "
                "such as 0.05 for 5 % of the feature energy left unexplained"
            )
        for name in ("minimum", "maximum"):
            value = getattr(self, name)
            if name == "maximum" and value is None:
                continue
            if not _is_integer(value) or value < 1:
                raise ValueError(f"Residual({name}={value!r}): it must be a positive integer")
        if self.maximum is not None and self.maximum < self.minimum:
            raise ValueError(
                f"Residual(minimum={self.minimum}, maximum={self.maximum}): "
                "the maximum must not be below the minimum"
            )


Budget = int | float | Residual


def check_budget(keep: Any) -> None:
    """Raise ValueError unless `keep` is a budget: an int >= 1, a float in (0, 1], a `Residual`."""
    if isinstance(keep, Residual):
        return
    hint = (
        "give a positive integer (tokens per image), a fraction above 0 and at most 1.0, "
        "or Residual(0.05)"
    )
    if _is_integer(keep):
        if keep < 1:
            raise ValueError(f"keep={keep!r} leaves no tokens: {hint}")
    elif _is_real(keep):
        if not 0 < keep <= 1:  # false for NaN too
            raise ValueError(f"keep={keep!r} is no fraction of the tokens: {hint}")
    else:
        raise ValueError(f"keep={keep!r} is no budget: {hint}")


def budget_tokens(keep: int | float, available: int) -> int:
    """How many of `available` tokens a count or fraction keeps: at least 1, at most all."""
    wanted = int(keep) if _is_integer(keep) else round(float(keep) * available)
    return min(max(wanted, 1), available)


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(float(value))
    )


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
        patches = torch.nn.functional.normalize(self.patches.float(), dim=-1)
        texts = torch.nn.functional.normalize(self.texts.float(), dim=-1)
        return (patches @ texts.T).mean(-1)


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
        False for separators (row ends, tile marks), which are never kept; None: all True.
    query : Query or None
        For methods that need "query"; None where the prompt has no text or nothing can compare it.
    """

    features: Tensor
    grid: tuple[int, int] | None = None
    candidates: Tensor | None = None
    query: Query | None = None

    def __len__(self) -> int:
        return len(self.features)

    def candidate_features(self) -> Tensor:
        """Rows [n, D] of the tokens that may be kept."""
        return self.features if self.candidates is None else self.features[self.candidates]

    def candidate_indices(self) -> Tensor:
        """Indices [n] of the tokens that may be kept, ascending, int64."""
        if self.candidates is None:
            return torch.arange(len(self.features), device=self.features.device)
        return self.candidates.nonzero()[:, 0]


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


def check_reduction(found: Any, tokens: VisualTokens, who: str) -> None:
    """Raise ValueError where a method broke the contract of `Reduction`."""
    if not isinstance(found, Reduction):
        raise ValueError(f"{who}.reduce gave {type(found).__name__}: it must give a Reduction")
    indices, n = found.indices, len(tokens)
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(
            f"{who}.reduce gave indices of shape {list(indices.shape)} and {indices.dtype}: "
            "they must be [k] and int64"
        )
    inside = len(indices) == 0 or bool(
        (indices[0] >= 0) & (indices[-1] < n) & (indices[1:] > indices[:-1]).all()
    )
    if not inside:
        raise ValueError(
            f"{who}.reduce gave indices that are not ascending, distinct and in [0, {n})"
        )
    if tokens.candidates is not None and not bool(tokens.candidates[indices].all()):
        raise ValueError(f"{who}.reduce kept a separator: keep only tokens.candidates")
    rows, size = found.features, (len(indices), tokens.features.shape[1])
    if rows is not None and tuple(rows.shape) != size:
        raise ValueError(
            f"{who}.reduce gave features of shape {list(rows.shape)}: they must be {list(size)}"
        )
