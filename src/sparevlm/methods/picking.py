"""The base class of methods that pick among the tokens of a picture."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparevlm.methods.base import PruningMethod, defined_first
from sparevlm.selection import checked_rows, in_rooms, no_autocast
from sparevlm.tokens import Reduction, VisualTokens, similarities


@dataclass(frozen=True)
class PickingMethod(PruningMethod):
    """A method that sees no separators: it implements `pick` instead of `reduce`."""

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """See `PruningMethod.reduce`."""
        return self.reduce_all([tokens])[0]

    def reduce_all(self, pictures: Sequence[VisualTokens]) -> list[Reduction]:
        """See `PruningMethod.reduce_all`.

        What is compared is so in the precision that methods choose, whatever autocast says outside.
        """
        with no_autocast(tokens.features for tokens in pictures):
            return self._reduce_all(pictures)

    def _reduce_all(self, pictures: Sequence[VisualTokens]) -> list[Reduction]:
        reductions: dict[int, Reduction] = {}
        todo: list[tuple[int, VisualTokens, int]] = []
        for i, tokens in enumerate(pictures):
            seen, k = tokens.only_candidates(), self.budget(tokens)
            if self.merges and k == len(seen):  # nothing to merge
                checked_rows(seen.features)
                reductions[i] = Reduction(tokens.candidate_indices())
            else:
                todo.append((i, seen, k))
        seens, ks = [seen for _, seen, _ in todo], [k for _, _, k in todo]
        if defined_first(type(self), "pick_all", "pick"):
            picked = self.pick_all(seens, ks)
        else:
            picked = [self.pick(seen, k) for seen, k in zip(seens, ks, strict=True)]
        for (i, _, _), reduction in zip(todo, picked, strict=True):
            tokens = pictures[i]
            if reduction.features is not None:
                rows = reduction.features.to(tokens.features.dtype)
                reduction = replace(reduction, features=rows)
            if tokens.candidates is not None:
                reduction = reduction.among(tokens.candidate_indices(), len(tokens))
            reductions[i] = reduction
        return [reductions[i] for i in range(len(pictures))]

    @abstractmethod
    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """Choose k of N >= k tokens, all of which may be kept. Does not change its argument."""

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """`pick` of several pictures: those alike go through one call where a method has one."""
        return [self.pick(tokens, k) for tokens, k in zip(pictures, ks, strict=True)]


@dataclass(frozen=True)
class BatchedMethod(PickingMethod):
    """A method whose loop takes several pictures: it implements `pick_all` instead of `pick`."""

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        return self.pick_all([tokens], [k])[0]

    @abstractmethod
    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """Choose of each picture as if it were alone. Does not change its arguments."""


def by_rooms(
    choose: Callable[[list[VisualTokens], list[int]], list[Reduction]],
    pictures: Sequence[VisualTokens],
    ks: Sequence[int],
) -> list[Reduction]:
    """What `choose` picks of all pictures, given as many at a time as fit; see `in_rooms`."""
    chosen: dict[int, Reduction] = {}
    for some in in_rooms([tokens.features for tokens in pictures]):
        picked = choose([pictures[i] for i in some], [ks[i] for i in some])
        chosen |= dict(zip(some, picked, strict=True))
    return [chosen[i] for i in range(len(pictures))]


def largest(scores: Tensor, k: int) -> Tensor:
    """The k largest of scores [N], largest first; ties go to the lowest index."""
    return scores.argsort(descending=True, stable=True)[:k]


def first_argmax(values: Tensor) -> Tensor:
    """Column [M] of the largest value of each row [M, N]; ties go to the lowest index."""
    columns = torch.arange(values.shape[1], device=values.device)
    best = values == values.amax(1, keepdim=True)
    return torch.where(best, columns, values.shape[1]).amin(1)


def min_max(values: Tensor) -> Tensor:
    """Scale values [.., N] linearly to [0, 1]; all equal gives zeros."""
    low, high = values.amin(-1, keepdim=True), values.amax(-1, keepdim=True)
    spread = high - low
    return ((values - low) / spread.clamp(min=1e-12)).clamp(0, 1)


def along_rows(
    function: Callable[[Tensor], Tensor], vectors: Sequence[Tensor | None]
) -> list[Tensor | None]:
    """A function [.., N] -> [.., N] of vectors [N]: one call where they are equally long."""
    given = [vector for vector in vectors if vector is not None]
    if len(given) > 1 and len({(v.shape, v.dtype, v.device) for v in given}) == 1:
        found = iter(function(torch.stack(given)))
    else:
        found = iter([function(vector) for vector in given])
    return [None if vector is None else next(found) for vector in vectors]


def question_similarity(pictures: Sequence[VisualTokens]) -> list[Tensor | None]:
    """Similarity [N] of each picture's tokens with its question; None without one."""
    queries = [tokens.query for tokens in pictures]
    found = iter(similarities([query for query in queries if query is not None]))
    return [None if query is None else next(found) for query in queries]
