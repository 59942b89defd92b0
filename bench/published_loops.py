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
