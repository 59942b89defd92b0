"""Tokens far apart in direction: farthest points by cosine distance, from the most isolated on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import check_features, check_k
from .compiled import compiled
from .distances import Distances, cosine_distances, nearest_others, slack
from .greedy import in_one_launch, too_many_pairs
from .max_min import max_min_each
from .products import no_autocast


@torch.no_grad()
def spread_each(pictures: Sequence[Tensor], ks: Sequence[int]) -> list[Tensor]:
    """Pick tokens of several images by the max-min diversity problem, greedily.

    First the token whose nearest other one is farthest, then always the one farthest from its
    nearest picked one, by the cosine distance 1 - cos(x_i, x_j).

    Parameters
    ----------
    pictures : sequence of Tensor [N, D], any floating dtype
        One row a token; shapes may differ.
    ks : sequence of int
        How many tokens of each; ``k >= N`` picks all N.

    Returns
    -------
    list of Tensor [k], int64
        Tokens in the order picked. Ties go to the lowest index.

    Raises
    ------
    TypeError, ValueError
        If features are no floating-point tensor of rows, or hold NaN or infinity, or k is no
        positive integer.

    References
    ----------
    DivPrune, arXiv 2503.02175.
    """
    for features in pictures:
        check_features(features)
    with no_autocast(pictures):
        return _spread_each(pictures, ks)


def _spread_each(pictures: Sequence[Tensor], ks: Sequence[int]) -> list[Tensor]:
    orders: dict[int, Tensor] = {}
    rest = []
    for i, (features, k) in enumerate(zip(pictures, ks, strict=True)):
        if _in_compiled_loop(features):
            from .host_spread import spread  # imports numpy

            orders[i] = spread(features, min(check_k(k), len(features)))
        else:
            rest.append(i)
    distances = [cosine_distances(pictures[i]) for i in rest]
    firsts = [_first(pictures[i], d) for i, d in zip(rest, distances, strict=True)]
    found = max_min_each(distances, [ks[i] for i in rest], firsts)
    orders |= dict(zip(rest, found, strict=True))
    return [orders[i] for i in range(len(pictures))]


def _in_compiled_loop(features: Tensor) -> bool:
    on_host = features.device.type == "cpu" and not in_one_launch(features)
    return on_host and not too_many_pairs(features) and compiled()


def _first(features: Tensor, distances: Tensor | Distances) -> Tensor:
    """1 for tokens whose nearest other one is farthest, else 0: [N]."""
    nearest = nearest_others(features, distances)
    return (nearest >= nearest.max() - slack(nearest.dtype)).to(nearest.dtype)
