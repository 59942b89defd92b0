"""ID-Selection: important tokens that suppress their likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparevlm.methods.picking import PickingMethod, min_max
from sparevlm.methods.settings import check_number
from sparevlm.selection import cosine_distances_to, suppress
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class IDSelection(PickingMethod):
    """Importance-diversity based selection (arXiv 2604.05601).

    Importance S, min-max scaled; always the token of the largest S is kept, and every other loses
    exp(-gamma d_ij^2) S_i, d the cosine distance of the features to the kept token i. Importance is
    the class token's attention, averaged over heads, in the layer that the projector reads: the
    visual one of those that the paper allows. A tower without a class token has the attention that
    a token receives in its place.

    Parameters
    ----------
    gamma : float
        Above 0; larger suppresses nearer tokens only.
    """

    name: ClassVar[str] = "id-selection"
    paper: ClassVar[str] = "arXiv 2604.05601"
    keeps: ClassVar[str] = "important tokens that suppress their likes"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention"})

    gamma: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "gamma", lambda g: g > 0, "above 0")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        distances = cosine_distances_to(tokens.features)

        def likeness(token: Tensor) -> Tensor:
            return torch.exp(-self.gamma * distances(token).square())

        scores = tokens.attention().mean(0)
        return Reduction.picked(suppress(min_max(scores), k, likeness), scores=scores)
