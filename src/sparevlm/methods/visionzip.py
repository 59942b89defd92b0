"""VisionZip: dominant tokens, and contextual ones that the rest is merged into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import PickingMethod, first_argmax, largest
from sparevlm.methods.settings import check_number
from sparevlm.selection import checked_rows, unit_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class VisionZip(PickingMethod):
    """VisionZip (arXiv 2412.04467, CVPR 2025), without its fine-tuning.

    Dominant: the class token itself, and the tokens of the largest class-token attention (sum over
    heads, the layer that the projector reads). Contextual: among the rest, targets at a uniform
    stride; every other token is assigned to the target of the most similar key (cosine of the mean
    over heads) and the mean of a target's tokens is added to it, before the projector. The class
    token stands in the place of the first token that is neither kept nor a target. A tower without
    a class token has the attention that a token receives in its place, and one patch more.

    Parameters
    ----------
    contextual : float
        Share of the k tokens that are contextual, in [0, 1): 10 of 64 in the paper.
    """

    name: ClassVar[str] = "visionzip"
    paper: ClassVar[str] = "arXiv 2412.04467"
    keeps: ClassVar[str] = (
        "dominant tokens by class attention; merges the rest into contextual ones"
    )
    by_place: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder_attention", "encoder_keys", "projector"})
    merges: ClassVar[bool] = True

    contextual: float = 10 / 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "contextual", lambda c: 0 <= c < 1, "from 0 to below 1")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows = checked_rows(tokens.features)
        states, keys = tokens.states(), tokens.keys().mean(1)
        scores = tokens.attention().sum(0)
        targets_wanted = round(k * self.contextual)
        class_state = None if tokens.projector is None else tokens.projector.class_state
        if k == targets_wanted:
            class_state = None
        patches = k - targets_wanted - (class_state is not None)
        dominant = largest(scores, patches)
        is_rest = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        is_rest[dominant] = False
        rest = is_rest.nonzero()[:, 0]
        stride = max(1, len(rest) // max(targets_wanted, 1))
        targets = rest[::stride][:targets_wanted]
        others = rest[~torch.isin(rest, targets)]
        places, features = [dominant], [tokens.features[dominant]]
        if targets_wanted:
            unit = unit_rows(keys)
            owner = first_argmax(unit[others] @ unit[targets].T)
            wide = checked_rows(states)
            sums = torch.zeros_like(wide[targets]).index_add_(0, owner, wide[others])
            counts = owner.bincount(minlength=targets_wanted).clamp(min=1)
            places.append(targets)
            features.append(tokens.project(wide[targets] + sums / counts[:, None]))
        if class_state is not None:
            places.append(others[:1])
            features.append(tokens.project(class_state[None]))
        dtype = rows.dtype
        merged = torch.cat([part.to(dtype) for part in features])
        return Reduction.picked(torch.cat(places), merged, scores=scores)
