"""What features of trained towers over photographs are like, asked of the pocket model's.

Left to itself a model this small says by the length of a token whether there is a thing, and hardly
anything of what a patch looks like beyond its answers. Towers such as CLIP-L do otherwise: tokens
are nearly of one length, but for a few long ones on even background (arXiv 2309.16588), and each
keeps something of its own patch. docs/studies/real_features.md has the figures.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparevlm.pocket.scenes import GRID
from sparevlm.pocket.training.common import pixels

LONG = 3  # tokens of a picture
FACTOR = 4.0  # their length, over the others'
SPREAD = 0.15  # what the logarithm of an ordinary length may differ from the mean, at no cost
SHARE = 0.15  # of a token's energy: what says how its patch looks
CELLS = 4  # a side
DETAILS = 3 * CELLS**2
EVEN = 0.1  # contrast of the noise that every background has, in the units of `pixels`


def looks(images: Tensor) -> Tensor:
    """How each patch of uint8 [B, 112, 112, 3] looks beside its mean colour: [B, 196, DETAILS].

    Rows are at most of length 1: what is stronger than noise is given at one contrast.
    """
    count = GRID * CELLS
    small = F.adaptive_avg_pool2d(pixels(images), count)  # [B, 3, 56, 56]
    cells = small.reshape(-1, 3, GRID, CELLS, GRID, CELLS).permute(0, 2, 4, 1, 3, 5)
    cells = cells.reshape(len(images), GRID * GRID, 3, CELLS**2)
    contrast = (cells - cells.mean(-1, keepdim=True)).flatten(2)
    return contrast / (contrast.norm(dim=-1, keepdim=True) + EVEN)


def length_loss(patches: Tensor, background: Tensor) -> Tensor:
    """0 where the LONG longest tokens on the background [B, 196] of [B, 196, D] are FACTOR times as
    long as all others, which are of one length.

    Which ones they are is the model's choice: asked for those on certain patches it hedges, and
    makes many of them somewhat longer.
    """
    lengths = patches.norm(dim=-1).clamp(min=1e-6).log()
    longest = lengths.detach().masked_fill(~background, -torch.inf).topk(LONG, dim=1).indices
    long = torch.zeros_like(background).scatter_(1, longest, True) & background
    ordinary = (~long).float()
    middle = (lengths * ordinary).sum(1, keepdim=True) / ordinary.sum(1, keepdim=True)
    beside = ((lengths - middle).abs() - SPREAD).clamp(min=0).square()
    away = (lengths - middle - float(np.log(FACTOR))).square()
    return (beside * ordinary).mean() + (away * long.float()).sum() / long.sum().clamp(min=1)


class Looks(nn.Module):
    """A fixed subspace in which each token says how its patch looks, with SHARE of its energy."""

    directions: Tensor

    def __init__(self, width: int):
        super().__init__()
        drawn = torch.randn(width, DETAILS, generator=torch.Generator().manual_seed(0))
        self.register_buffer("directions", torch.linalg.qr(drawn).Q, persistent=False)

    def forward(self, patches: Tensor, seen: Tensor) -> Tensor:
        """0 where the tokens [B, 196, width] lie in the subspace as `seen` (of `looks`) does."""
        said = F.normalize(patches, dim=-1) @ self.directions
        return (said - SHARE**0.5 * seen).square().sum(-1).mean()
