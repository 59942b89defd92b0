"""Relevance alone: what is left when nothing is reconstructed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class RelevanceAlone(PickingMethod):
    """Keep the k tokens most like the question ("normal"), or least like it ("anti")."""

    name: ClassVar[str] = "relevance-alone"
    paper: ClassVar[str] = "control"
    needs: ClassVar[frozenset[str]] = frozenset({"query"})

    guidance: str = "normal"

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        similarity = tokens.query.similarity()
        signed = similarity if self.guidance == "normal" else -similarity
        return Reduction.picked(largest(signed, k), scores=similarity)
