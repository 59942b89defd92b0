"""ResPrune: SPARE's twin, weighted towards the question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from sparevlm.methods.picking import BatchedMethod, along_rows, min_max, question_similarity
from sparevlm.methods.settings import check_number
from sparevlm.selection import select_each
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class ResPrune(BatchedMethod):
    """Text-conditioned subspace reconstruction (arXiv 2603.21105).

    Always the token of the largest g(s_i) |v_i - P_S v_i|^2: the energy that the span of the kept
    tokens S leaves of it, in the space of the language model's inputs, times g(s) = s^alpha of the
    relevance s_i, the cosine of the token with the embedded nouns of the prompt. SPARE has the same
    residuals, and weighs the other way. There is no public program, and what we could read of the
    paper does not say what alpha is, how the cosines with several nouns are joined, or what s^alpha
    is where a cosine is negative. Ours takes all words of the question (a language model's
    embeddings know no parts of speech), averages, and scales to [0, 1] within the picture. Without
    a question g = 1.

    Parameters
    ----------
    alpha : float
        At least 0; 0 is reconstruction alone.
    """

    name: ClassVar[str] = "resprune"
    paper: ClassVar[str] = "arXiv 2603.21105"
    keeps: ClassVar[str] = "tokens that span the others, towards what the question asks for"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query"})
    compares: ClassVar[Literal["clip", "llm"]] = "llm"

    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", lambda a: a >= 0, "of at least 0")

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        scores = question_similarity(pictures)
        # Of lengths, whose squares are energies.
        weights = along_rows(lambda s: min_max(s) ** (self.alpha / 2), scores)
        selections = select_each([tokens.features for tokens in pictures], ks, weights)
        return [
            Reduction.picked(one.order, scores=similar, residual=one.residual, weights=w)
            for one, similar, w in zip(selections, scores, weights, strict=True)
        ]
