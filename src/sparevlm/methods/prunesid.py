"""PruneSID: of the tokens of each principal component, important ones that are not alike."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import PickingMethod, first_argmax, largest
from sparevlm.selection import checked_rows, leverage_scores, unit_rows
from sparevlm.tokens import Reduction, VisualTokens

_A_GROUP = 4  # kept tokens for which there is a group
_MOST, _PER = 5, 64  # tokens that a group may keep, for so many kept in all
_SCALE = 18  # of the likeness above which tokens go, at all tokens kept


@dataclass(frozen=True)
class PruneSID(PickingMethod):
    """Importance and diversity in groups (arXiv 2603.09480, ICLR 2026), as for LLaVA.

    Encoder states go through a sigmoid and lose their mean over channels; of the leading k / 4
    singular vectors of what is left (the authors' program draws for them, ours are exact), a token
    belongs to the one in which its entry is largest. In a group the token of the largest
    class-token attention (sum over heads, the layer that the projector reads) is kept and removes
    those whose cosine to it is above 18 k / N times the mean cosine of all pairs, and so on. Each
    group gives its first token, and the rest of the k in proportion to how many it kept, at most 5
    for every 64 of k; where that is too few, larger groups give more, removed tokens last, by
    attention. The class token itself is one of the k and stands in the place of the first token
    that is not kept; a tower without one has the attention that a token receives in its place, and
    one patch more.
    """

    name: ClassVar[str] = "prunesid"
    paper: ClassVar[str] = "arXiv 2603.09480"
    keeps: ClassVar[str] = (
        "of each principal component what the class token looks at, without near-duplicates"
    )
    by_place: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention", "projector"})
    merges: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows, states = checked_rows(tokens.features), checked_rows(tokens.states())
        class_state = None if tokens.projector is None or k == 1 else tokens.projector.class_state
        scores = tokens.attention().sum(0)
        groups = _groups(states, max(1, k // _A_GROUP))
        ranked, kept, sizes = _by_group(unit_rows(states), scores, groups, k)
        counts = _shares(kept, sizes, k, k - (class_state is not None))
        parts = zip(ranked.split(sizes), counts, strict=True)
        order = torch.cat([mine[:count] for mine, count in parts])
        if class_state is None:
            return Reduction.picked(order, scores=scores)
        others = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        others[order] = False
        place = others.nonzero()[:1, 0]
        merged = torch.cat([rows[order], tokens.project(class_state[None]).to(rows.dtype)])
        return Reduction.picked(torch.cat([order, place]), merged, scores=scores)


def _groups(states: Tensor, count: int) -> Tensor:
    """Group [N], int64, of each of states [N, C]: at most `count`."""
    squashed = states.sigmoid()
    _, vectors, _ = leverage_scores(squashed - squashed.mean(1, keepdim=True), count)
    return first_argmax(vectors.abs())


def _by_group(
    unit: Tensor, scores: Tensor, groups: Tensor, k: int
) -> tuple[Tensor, list[int], list[int]]:
    """Tokens [N], group by group: those kept in the order of being kept, then the removed.

    And how many each group keeps, and has. unit [N, C], of length 1; scores and groups [N].
    """
    n, count = len(unit), int(groups.max()) + 1
    pairs = unit.sum(0).square().sum() - unit.square().sum()  # without any matrix of them
    limit = _SCALE * k / n * pairs / max(n * (n - 1), 1)
    ranking = largest(scores, n)
    place = torch.empty_like(ranking)
    place[ranking] = torch.arange(n, device=unit.device)
    left = torch.ones(n, dtype=torch.bool, device=unit.device)
    turns = torch.full_like(place, n)  # n: removed
    for turn in range(n):  # all groups at once
        if not bool(left.any()):
            break
        best = place.new_full((count,), n - 1)
        best = best.scatter_reduce(0, groups, place.masked_fill(~left, n), "amin")[groups]
        chosen = left & (place == best)
        near = (unit * unit[ranking[best]]).sum(1) > limit
        turns = turns.masked_fill(chosen, turn)
        left &= ~(chosen | near)
    order = ((groups * (n + 1) + turns) * n + place).argsort()
    kept = groups[turns < n].bincount(minlength=count)
    return order, kept.tolist(), groups.bincount(minlength=count).tolist()


def _shares(kept: list[int], sizes: list[int], k: int, patches: int) -> list[int]:
    """How many of `patches` tokens each group gives, of those that it keeps and has."""
    least = [min(1, size) for size in sizes]
    most = [min(_MOST * math.ceil(k / _PER), *both) for both in zip(kept, sizes, strict=True)]
    while sum(most) < min(k, sum(sizes)):
        most = [min(bound + 1, size) for bound, size in zip(most, sizes, strict=True)]
    rest, counts, before = patches - sum(least), [], 0
    for g, bound in enumerate(most):
        end = round(sum(kept[: g + 1]) / sum(kept) * rest)
        counts.append(min(least[g] + end - before, bound))
        before = end
    for g in sorted(range(len(sizes)), key=lambda g: -kept[g]):
        counts[g] += min(most[g] - counts[g], patches - sum(counts))
    return counts
