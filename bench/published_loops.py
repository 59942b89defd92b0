"""The selection loops as their authors publish them, re-written from the papers, to be timed.

They do what the published programs do step by step, launches included: no batching, no fusing. Our
own forms of the same methods are in `sparevlm.methods`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cdpruner(features: Tensor, relevance: Tensor, k: int) -> Tensor:
    """CDPruner: fast greedy MAP of the DPP (Chen et al. 2018) over a precomputed kernel.

    features [N, D] and relevance [N] give k indices.
    """
    unit = features.float()
    unit = unit / unit.norm(dim=-1, keepdim=True)
    kernel = relevance[:, None] * (unit @ unit.T) * relevance
    gains = kernel.diagonal().clone()
    rows = kernel.new_zeros(k, len(kernel))
    picks = torch.empty(k, dtype=torch.int64, device=features.device)
    for t in range(k):
        pick = gains.argmax()
        picks[t] = pick
        row = kernel[pick] - rows[:t, pick] @ rows[:t]
        rows[t] = row / gains[pick].sqrt()
        gains = gains - rows[t].square()
        gains[pick] = -torch.inf
    return picks.sort().values


def divprune(features: Tensor, k: int) -> Tensor:
    """DivPrune: max-min diversity, the distances to all kept tokens gathered anew each step.

    features [N, D] give k indices.
    """
    unit = features / features.norm(dim=-1, keepdim=True)
    distances = 1 - unit @ unit.T
    picks = torch.empty(k, dtype=torch.int64, device=features.device)
    for t in range(k):
        if t == 0:
            nearest = distances.topk(2, dim=0, largest=False).values[1]
        else:
            nearest = distances.index_select(0, picks[:t]).amin(0)
        picks[t] = nearest.argmax()
    return picks


def mmtok(features: Tensor, states: Tensor, texts: Tensor, k: int) -> Tensor:
    """MMTok: maximum coverage, all gains computed anew each step.

    features [N, D], encoder states [N, C] and texts [M, D] give k indices.
    """

    def unit(rows: Tensor) -> Tensor:
        return (rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-8)).float()

    seen = unit(states)
    texts_cover = (unit(texts) @ unit(features).T / 0.02).softmax(1) / len(texts)
    picture_covers = 0.5 * (seen @ seen.T / 0.2).softmax(1) / len(states)
    cover = torch.cat([texts_cover, picture_covers])
    best = cover.new_zeros(len(cover))
    gone = cover.new_zeros(len(states))
    picks = torch.empty(k, dtype=torch.int64, device=features.device)
    for t in range(k):
        gains = (cover - best[:, None]).clamp_(min=0).sum(0) + gone
        picks[t] = gains.argmax()
        gone[picks[t]] = -torch.inf
        best = torch.maximum(best, cover[:, picks[t]])
    return picks


def scope(states: Tensor, saliency: Tensor, k: int) -> Tensor:
    """SCOPE: coverage times saliency, all gains computed anew each step, as a batch of one.

    Encoder states [N, C] and saliency [N] give k indices.
    """
    unit = (states / states.norm(dim=-1, keepdim=True))[None]
    cosines = torch.bmm(unit, unit.mT)
    picked = torch.zeros(1, len(states), dtype=torch.bool, device=states.device)
    best = cosines.new_zeros(1, len(states))
    nothing = cosines.new_zeros(1)
    picks = torch.empty(k, dtype=torch.int64, device=states.device)
    for t in range(k):
        gains = torch.maximum(nothing, cosines.masked_fill(picked[:, None], 0) - best[:, :, None])
        values = (gains.sum(1) * saliency).masked_fill(picked, -torch.inf)
        pick = values.argmax(1)
        picks[t] = pick[0]
        picked[0, pick] = True
        best = torch.maximum(best, cosines[:, pick[0]])
    return picks


def vispruner(states: Tensor, attention: Tensor, k: int) -> Tensor:
    """VisPruner: half by attention, and near-duplicates dropped from the rest, eight at a time.

    Encoder states [N, C] and attention [N] give k indices, ascending.
    """
    unit = states / states.norm(dim=-1, keepdim=True)
    ranked = attention.argsort(descending=True)
    first, left = ranked[: k // 2], ranked[k // 2 :]
    while (drop := min(8, len(left) - (k - k // 2))) > 0:
        rows = unit[left]
        likeness = (rows[::2] @ rows[1::2].T).amax(1)
        stay = likeness.argsort(descending=True)[drop:]
        left = torch.cat([left[::2][stay], left[1::2]])
    return torch.cat([first, left]).sort().values


def dart(features: Tensor, norms: Tensor, pivots: int, share: int, first: int = 0) -> Tensor:
    """DART: each pivot takes the `share` tokens least like it, in the order of a Python set.

    The set holds places in the prompt, of which the picture's begin at `first`, so that whose turn
    it is depends on the words before the picture. features [N, D] and L1 norms [N] give
    pivots + pivots * share indices, ascending.
    """
    chosen = set((norms.topk(pivots).indices + first).tolist())
    free = set(range(first, first + len(features))) - chosen
    for pivot in list(chosen):
        left = list(free)
        others = features[torch.tensor(left) - first]
        unlike = -torch.cosine_similarity(features[pivot - first][None], others, dim=-1)
        taken = [left[i] for i in unlike.topk(share).indices.tolist()]
        chosen.update(taken)
        free.difference_update(taken)
    return torch.tensor(sorted(chosen)) - first
