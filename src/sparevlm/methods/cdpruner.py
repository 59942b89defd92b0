"""CDPruner: a determinantal point process conditioned on the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparevlm.methods.picking import BatchedMethod, question_similarity
from sparevlm.methods.settings import check_choice
from sparevlm.selection import checked_rows, select_each
from sparevlm.tokens import Query, Reduction, VisualTokens

_SIGNS = {"clip": "minus", "llm": "plus"}  # by the space that compares: docs/studies/signs.md


@dataclass(frozen=True)
class CDPruner(BatchedMethod):
    """Conditional diversity maximisation (arXiv 2506.10967, NeurIPS 2025).

    Greedy MAP of the DPP with kernel diag(r) S diag(r): S_ij = cos(x_i, x_j) of the features, and r
    the similarity of token and question, r_i = -cos(patch_i, text), averaged over the segments (in
    the language model's space the words) of the text and scaled to (r - min + 1e-6) / (max - min)
    within the picture. (The published code takes minimum and maximum over the whole batch.) Without
    a question r = 1.

    Greedy MAP is pivoted selection of the rows r_i x_i / |x_i|, so SPARE's core computes it.

    The authors compare in CLIP's space alone, where patches of what is asked for are the least
    alike; hence the minus. In the language model's space OpenVINO GenAI's implementation takes
    plus: r_i = cos(x_i, mean of the prompt's embeddings), scaled likewise, in the kernel (S +
    diag(r) S diag(r)) / 2, and chooses half of the tokens in each half of the picture.

    Parameters
    ----------
    sign : "auto", "minus" or "plus"
        Of the similarity. "auto" is minus in CLIP's (and SigLIP's) space and plus in the language
        model's, as the study "signs" found on the pocket model.
    """

    name: ClassVar[str] = "cdpruner"
    paper: ClassVar[str] = "arXiv 2506.10967"
    keeps: ClassVar[str] = (
        "tokens of different direction, away from what the question says (a determinantal "
        "point process)"
    )
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query"})

    sign: Literal["auto", "minus", "plus"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "sign", ("auto", "minus", "plus"))

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        scores = question_similarity(pictures)
        features = [checked_rows(tokens.features) for tokens in pictures]
        signed = [
            None if t.query is None or similar is None else self._sign(t.query) * similar
            for t, similar in zip(pictures, scores, strict=True)
        ]
        weights = [_weights(x, relevance) for x, relevance in zip(features, signed, strict=True)]
        selections = select_each(features, ks, weights)
        return [
            Reduction.picked(one.order, scores=similar)
            for one, similar in zip(selections, scores, strict=True)
        ]

    def _sign(self, query: Query) -> int:
        sign = _SIGNS[query.source] if self.sign == "auto" else self.sign
        return 1 if sign == "plus" else -1


def _weights(features: Tensor, relevance: Tensor | None) -> Tensor:
    """What makes of features [N, D] the rows r_i x_i / |x_i|, given their relevance [N]."""
    norms = torch.linalg.vector_norm(features, dim=1).double()
    lengths = torch.where(norms > 0, norms, torch.inf)
    if relevance is None:
        return 1 / lengths
    low, high = relevance.min(), relevance.max()
    return (relevance - low + 1e-6) / (high - low).clamp(min=1e-6) / lengths
