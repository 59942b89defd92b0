"""ZOO-Prune: sensitive tokens that lie far apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import min_max
from sparevlm.methods.seeded import SeededMethod
from sparevlm.methods.settings import check_count, check_number
from sparevlm.selection import checked_rows, cosine_distances_to, max_min
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class ZOOPrune(SeededMethod):
    """Zeroth-order token pruning (arXiv 2509.24837, CVPR 2026).

    Sensitivity of a token: the mean over random unit directions u, the same for all tokens, of
    |P(x_i + h u) - P(x_i - h u)| / 2h, with P the projector and x_i the encoder state; min-max
    scaled within the picture. First the most sensitive token, then always the one with the largest
    product of sensitivity and cosine distance of its feature to the nearest kept one.

    Parameters
    ----------
    directions : int
        How many random directions.
    step : float
        h, above 0.

    Notes
    -----
    Twice `directions` runs of the projector make it the slowest method here by far.
    """

    name: ClassVar[str] = "zoo-prune"
    paper: ClassVar[str] = "arXiv 2509.24837"
    keeps: ClassVar[str] = "sensitive tokens far apart"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"projector"})

    directions: int = 64
    step: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "directions")
        check_number(self, "step", lambda h: h > 0, "above 0")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`.

        Raises
        ------
        ValueError
            If there is no projector.
        """
        distances = cosine_distances_to(tokens.features)
        if tokens.projector is None:
            raise ValueError(
                "ZOOPrune perturbs the projector, and there is none: attach it to a model, or give "
                "VisualTokens(projector=)"
            )
        scores = self.sensitivity(tokens)
        scaled = min_max(scores) if bool(scores.max() > scores.min()) else torch.ones_like(scores)
        return Reduction.picked(max_min(distances, k, scaled, scaled), scores=scores)

    def sensitivity(self, tokens: VisualTokens) -> Tensor:
        """How far each feature moves when its encoder state is pushed: [N]."""
        states = checked_rows(tokens.states())
        total = states.new_zeros(len(states))
        generator = self.generator()
        for _ in range(self.directions):
            drawn = torch.randn(states.shape[1], generator=generator, dtype=torch.float64)
            push = self.step * (drawn / drawn.norm()).to(states)
            ahead, behind = tokens.project(states + push), tokens.project(states - push)
            total += torch.linalg.vector_norm(checked_rows(ahead - behind), dim=1)
        return total / (2 * self.step * self.directions)
