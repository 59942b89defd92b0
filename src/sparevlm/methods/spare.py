"""SPARE: keep the tokens that span the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from sparevlm.budgets import Residual
from sparevlm.methods.picking import PickingMethod, min_max
from sparevlm.methods.settings import check_choice, check_flag, check_number
from sparevlm.selection import select, select_each, unit_rows
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
        budget = self.keep
        if not isinstance(budget, Residual):
            return self.pick_all([tokens], [k])[0]
        features = self._rows(tokens)
        similarity, weights = self._compared(tokens)
        selection = select(features, k, weights=weights, tol=budget.error)
        if int(selection.count) < min(budget.minimum, len(features)):
            selection = select(features, budget.minimum, weights=weights)
        return Reduction.picked(
            selection.order, scores=similarity, residual=selection.residual, weights=weights
        )

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `PickingMethod.pick_all`."""
        if isinstance(self.keep, Residual):
            return super().pick_all(pictures, ks)
        compared = [self._compared(tokens) for tokens in pictures]
        selections = select_each(
            [self._rows(tokens) for tokens in pictures], ks, [weights for _, weights in compared]
        )
        return [
            Reduction.picked(one.order, scores=similarity, residual=one.residual, weights=weights)
            for one, (similarity, weights) in zip(selections, compared, strict=True)
        ]

    def _rows(self, tokens: VisualTokens) -> Tensor:
        return unit_rows(tokens.features) if self.normalize else tokens.features

    def _compared(self, tokens: VisualTokens) -> tuple[Tensor | None, Tensor | None]:
        """Similarity with the question and weights [N]; None without one."""
        if not self.requires or tokens.query is None:
            return None, None
        similarity = tokens.query.similarity()
        scaled = min_max(similarity)
        return similarity, 1 - self.strength * (scaled if self.guidance == "anti" else 1 - scaled)
