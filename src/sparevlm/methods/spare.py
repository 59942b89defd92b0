"""SPARE: keep the tokens that span the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from sparevlm.budgets import Residual
from sparevlm.methods.picking import PickingMethod, alike, min_max
from sparevlm.methods.settings import check_choice, check_flag, check_number
from sparevlm.selection import select, unit_rows
from sparevlm.tokens import Reduction, VisualTokens

Guidance = Literal["anti", "normal", "none"]


@dataclass(frozen=True)
class SPARE(PickingMethod):
    """Visual token pruning as subspace reconstruction (arXiv 2606.18681).

    Column subset selection on the unnormalised features: with residuals r_i, at first x_i, keep
    argmax_i w_i |r_i| and project it out of all residuals, again and again. The weight is
    w_i = 1 - strength * s_i, with s_i the similarity of token and question, min-max scaled within
    the picture: tokens that merely repeat the question carry less context ("anti-relevance").
    The paper's public text names the two ingredients and not how they are joined; this product is
    ours.

    Parameters
    ----------
    guidance : "anti", "normal" or "none"
        "anti" weights against the question, "normal" towards it (s_i -> 1 - s_i; the paper's
        ablation), "none" reconstructs alone. Without a question, or anything to compare it with,
        all weights are 1.
    strength : float
        In [0, 1]; 0 is no guidance, 1 lets the most similar token count nothing. 0.25 is what our
        ablation on the pocket model found to do no harm (docs/defaults.md).
    normalize : bool
        Scale all tokens to length 1 first, for the ablation: with guidance "anti" at strength 1
        this is CDPruner.
    """

    name: ClassVar[str] = "spare"
    paper: ClassVar[str] = "arXiv 2606.18681"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query"})
    bounds_error: ClassVar[bool] = True

    guidance: Guidance = "anti"
    strength: float = 0.25
    normalize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "guidance", get_args(Guidance))
        check_number(self, "strength", lambda s: 0 <= s <= 1, "from 0 to 1")
        check_flag(self, "normalize")

    @property
    def requires(self) -> frozenset[str]:
        """See `PruningMethod.requires`: without guidance the question is not looked at."""
        return self.needs if self.guidance != "none" and self.strength > 0 else frozenset()

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        return self._picked(tokens, k, *self._compared(tokens))

    def _picked(
        self, tokens: VisualTokens, k: int, similarity: Tensor | None, weights: Tensor | None
    ) -> Reduction:
        features = unit_rows(tokens.features) if self.normalize else tokens.features
        budget = self.keep
        tol = budget.error if isinstance(budget, Residual) else 0.0
        selection = select(features, k, weights=weights, tol=tol)
        if isinstance(budget, Residual) and int(selection.count) < min(
            budget.minimum, len(features)
        ):
            selection = select(features, budget.minimum, weights=weights)
        return Reduction.picked(
            selection.order, scores=similarity, residual=selection.residual, weights=weights
        )

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `PickingMethod.pick_all`: `select` takes a batch."""
        if isinstance(self.keep, Residual):
            return super().pick_all(pictures, ks)
        reductions: dict[int, Reduction] = {}
        compared = [self._compared(tokens) for tokens in pictures]
        kinds = [(k, weights is None) for k, (_, weights) in zip(ks, compared, strict=True)]
        for group in alike([tokens.features for tokens in pictures], kinds):
            if len(group) == 1:
                (i,) = group
                reductions[i] = self._picked(pictures[i], ks[i], *compared[i])
                continue
            rows = torch.stack([pictures[i].features for i in group])
            rows = unit_rows(rows) if self.normalize else rows
            weights = [w for i in group if (w := compared[i][1]) is not None]
            selection = select(
                rows, ks[group[0]], weights=torch.stack(weights) if weights else None
            )
            for i, order, residual in zip(group, selection.order, selection.residual, strict=True):
                similarity, own = compared[i]
                reductions[i] = Reduction.picked(
                    order, scores=similarity, residual=residual, weights=own
                )
        return [reductions[i] for i in range(len(pictures))]

    def _compared(self, tokens: VisualTokens) -> tuple[Tensor | None, Tensor | None]:
        """Similarity with the question and weights [N]; None without one."""
        if not self.requires or tokens.query is None:
            return None, None
        similarity = tokens.query.similarity()
        scaled = min_max(similarity)
        return similarity, 1 - self.strength * (scaled if self.guidance == "anti" else 1 - scaled)
