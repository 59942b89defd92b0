"""SPARE: keep the tokens that span the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from sparevlm.budgets import Residual
from sparevlm.methods.picking import BatchedMethod, along_rows, min_max, question_similarity
from sparevlm.methods.settings import check_choice, check_flag, check_number
from sparevlm.selection import checked_rows, select, select_each
from sparevlm.tokens import Reduction, VisualTokens

Guidance = Literal["anti", "normal", "none"]
Form = Literal["product", "power"]


@dataclass(frozen=True)
class SPARE(BatchedMethod):
    """Visual token pruning as subspace reconstruction (arXiv 2606.18681).

    Column subset selection on the unnormalised features: with residuals r_i, at first x_i, keep
    argmax_i w_i |r_i| and project it out of all residuals, again and again. The weight is
    w_i = 1 - strength * s_i, with s_i the similarity of token and question, min-max scaled within
    the picture: tokens that merely repeat the question carry less context ("anti-relevance").
    The paper's public text names the two ingredients and not how they are joined; this product is
    ours. The other settings lead from SPARE to its relatives, at the same cost.

    Parameters
    ----------
    guidance : "anti", "normal" or "none"
        "anti" weights against the question, "normal" towards it (s_i -> 1 - s_i; the paper's
        ablation), "none" reconstructs alone. Without a question, or anything to compare it with,
        all weights are 1.
    strength : float
        In [0, 1] for a product; 0 is no guidance, 1 lets the most similar token count nothing.
        0.25 is what our ablation on the pocket model found to do no harm (docs/defaults.md). At
        least 0 for a power.
    form : "product" or "power"
        How similarity enters: w_i = 1 - strength * s_i, or w_i = (1 - s_i)^strength. With guidance
        "normal" and strength alpha / 2 the power is what `ResPrune` does.
    exponent : float
        p in [0, 1] of |r_i|^2 / |x_i|^(2 p), how far a token's length is taken out: 0 is SPARE, 1
        takes all tokens at length 1.
    winsorize : float or None
        Tokens longer than so many medians of all lengths are taken at that length, so that a few
        long ones (registers on background, arXiv 2309.16588) do not take the first picks; None:
        none are. At least 1.
    normalize : bool
        Another name for ``exponent=1``, for the ablation: with guidance "anti" at strength 1 this
        is CDPruner.
    """

    name: ClassVar[str] = "spare"
    paper: ClassVar[str] = "arXiv 2606.18681"
    keeps: ClassVar[str] = (
        "tokens that span the others (column subset selection), away from what merely repeats "
        "the question"
    )
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query"})
    bounds_error: ClassVar[bool] = True

    guidance: Guidance = "anti"
    strength: float = 0.25
    normalize: bool = False
    form: Form = "product"
    exponent: float = 0.0
    winsorize: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "guidance", get_args(Guidance))
        check_choice(self, "form", get_args(Form))
        if self.form == "product":
            check_number(self, "strength", lambda s: 0 <= s <= 1, "from 0 to 1")
        else:
            check_number(self, "strength", lambda s: s >= 0, "of at least 0")
        check_flag(self, "normalize")
        check_number(self, "exponent", lambda p: 0 <= p <= 1, "from 0 to 1")
        if self.normalize and self.exponent not in (0, 1):
            raise ValueError(
                f"normalize=True is exponent=1, which exponent={self.exponent} contradicts: give "
                "one of the two"
            )
        if self.winsorize is not None:
            check_number(self, "winsorize", lambda c: c >= 1, "of at least 1, or None")

    @property
    def requires(self) -> frozenset[str]:
        """See `PruningMethod.requires`: without guidance the question is not looked at."""
        return self.needs if self.guidance != "none" and self.strength > 0 else frozenset()

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        budget = self.keep
        if isinstance(budget, Residual):
            pairs = zip(pictures, ks, strict=True)
            return [self._by_error(tokens, k, budget) for tokens, k in pairs]
        scores, weights = self._compared(pictures)
        selections = select_each([tokens.features for tokens in pictures], ks, weights)
        return [
            Reduction.picked(one.order, scores=similar, residual=one.residual, weights=w)
            for one, similar, w in zip(selections, scores, weights, strict=True)
        ]

    def _by_error(self, tokens: VisualTokens, most: int, budget: Residual) -> Reduction:
        """As few tokens as the budget's error allows, within its bounds."""
        (similarity,), (weights,) = self._compared([tokens])
        selection = select(tokens.features, most, weights=weights, tol=budget.error)
        if int(selection.count) < min(budget.minimum, len(tokens)):
            selection = select(tokens.features, budget.minimum, weights=weights)
        return Reduction.picked(
            selection.order, scores=similarity, residual=selection.residual, weights=weights
        )

    def _compared(
        self, pictures: Sequence[VisualTokens]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Similarity with the question and weights [N] of each picture; None without one."""
        scores: list[Tensor | None] = [None] * len(pictures)
        if self.requires:
            scores = question_similarity(pictures)
        weights = along_rows(self._guided, scores)
        exponent = 1.0 if self.normalize else self.exponent
        if exponent > 0 or self.winsorize is not None:
            scales = [_by_length(t.features, exponent, self.winsorize) for t in pictures]
            pairs = zip(scales, weights, strict=True)
            weights = [scale if w is None else scale * w for scale, w in pairs]
        return scores, weights

    def _guided(self, similarity: Tensor) -> Tensor:
        """Weights [.., N] of similarity [.., N]."""
        similar = min_max(similarity)
        against = similar if self.guidance == "anti" else 1 - similar
        if self.form == "product":
            return 1 - self.strength * against
        return (1 - against) ** self.strength


def _by_length(features: Tensor, exponent: float, winsorize: float | None) -> Tensor:
    """What makes rows of features [N, D] as long as `SPARE` says: [N], float64."""
    norms = torch.linalg.vector_norm(checked_rows(features), dim=1).double()
    lengths = torch.where(norms > 0, norms, 1)
    taken = lengths
    if winsorize is not None and bool((norms > 0).any()):
        taken = lengths.clamp(max=winsorize * norms[norms > 0].median())
    return taken.pow(1 - exponent) / lengths
