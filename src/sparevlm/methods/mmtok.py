"""MMTok: tokens that cover the question and the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sparevlm.methods.picking import PickingMethod
from sparevlm.methods.settings import check_number
from sparevlm.selection import checked_rows, cosines, max_coverage, unit_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class MMTok(PickingMethod):
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

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        n = len(checked_rows(tokens.features))
        states = unit_rows(tokens.states())
        weights = [states.new_full((n,), self.alpha / n)]
        scores = alike = None
        if tokens.query is not None:
            texts, patches = unit_rows(tokens.query.texts), unit_rows(tokens.query.patches)
            alike = (texts @ patches.T / self.text_temperature).softmax(1).to(states)
            weights.insert(0, states.new_full((len(alike),), 1 / len(alike)))
            scores = alike.mean(0)
        cover = cosines(states, self.vision_temperature, alike)
        order = max_coverage(cover, k, weights=torch.cat(weights))
        return Reduction.picked(order, scores=scores)
