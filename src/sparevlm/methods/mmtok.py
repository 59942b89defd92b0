"""MMTok: tokens that cover the question and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparevlm.methods.picking import BatchedMethod, by_rooms
from sparevlm.methods.settings import check_number
from sparevlm.selection import (
    Similarity,
    checked_rows,
    cosines,
    max_coverage_each,
    unit_rows,
)
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class MMTok(BatchedMethod):
    """Multimodal coverage maximisation (arXiv 2508.18264, ICLR 2026).

    With P = softmax(cos(text, token) / text_temperature) over the tokens, one row for each of the m
    tokens of the question (its embeddings in the language model, against the features), and Q =
    softmax(cos(state, state) / vision_temperature) of encoder states, always the token that lifts
    (1 / m) sum_t max_{j kept} P_tj + (alpha / N) sum_i max_{j kept} Q_ij most. Without a question
    the picture alone is covered. (The authors' program first cuts the question down to keywords.)

    Parameters
    ----------
    alpha : float
        Weight of covering the picture, at least 0.
    text_temperature, vision_temperature : float
        Above 0.
    """

    name: ClassVar[str] = "mmtok"
    paper: ClassVar[str] = "arXiv 2508.18264"
    keeps: ClassVar[str] = "tokens that cover question and picture"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query", "projector"})
    compares: ClassVar[Literal["clip", "llm"]] = "llm"

    alpha: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "alpha", lambda a: a >= 0, "of at least 0")
        for name in ("text_temperature", "vision_temperature"):
            check_number(self, name, lambda t: t > 0, "above 0")

    def pick_all(self, pictures: Sequence[VisualTokens], ks: Sequence[int]) -> list[Reduction]:
        """See `BatchedMethod.pick_all`."""
        return by_rooms(self._picked, pictures, ks)

    def _picked(self, pictures: list[VisualTokens], ks: list[int]) -> list[Reduction]:
        covers = [self._cover(tokens) for tokens in pictures]
        orders = max_coverage_each(
            [similarity for similarity, _, _ in covers],
            ks,
            weights=[weights for _, weights, _ in covers],
        )
        return [
            Reduction.picked(order, scores=scores)
            for order, (_, _, scores) in zip(orders, covers, strict=True)
        ]

    def _cover(self, tokens: VisualTokens) -> tuple[Tensor | Similarity, Tensor, Tensor | None]:
        """P above Q [m + N, N], what each row counts [m + N], and scores [N] by the question."""
        n, states, query = len(checked_rows(tokens.features)), tokens.states(), tokens.query
        if query is None:
            cover = cosines(states, self.vision_temperature)
            return cover, cover.new_ones(n), None
        texts, patches = unit_rows(query.texts), checked_rows(query.patches)
        lengths = torch.linalg.vector_norm(patches, dim=1).clamp(min=1e-30)
        asked = (texts.to(patches) @ patches.T / lengths / self.text_temperature).softmax(1)
        cover, count = cosines(states, self.vision_temperature, asked), len(asked)
        weights = cover.new_ones(count + n)
        weights[:count] = 1 / count
        weights[count:] = self.alpha / n
        return cover, weights, asked.mean(0)
