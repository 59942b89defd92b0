"""DART in its own place: between layers of the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.dart import least_alike
from sparevlm.methods.in_decoder import DecoderMethod, LayerTokens
from sparevlm.methods.picking import largest
from sparevlm.methods.settings import check_count
from sparevlm.selection import unit_rows
from sparevlm.tokens import Reduction


@dataclass(frozen=True)
class DARTDecoder(DecoderMethod):
    """Duplication-aware reduction of tokens (arXiv 2502.11494, EMNLP 2025), as published.

    After ``layer`` decoder layers, pivots are the ``pivots`` visual tokens and the ``words`` words
    behind the picture whose keys in the last of these layers have the largest L1 norm. Visual
    pivots are kept; then each pivot in turn takes its equal share of the other tokens, those of the
    lowest cosine similarity to it (hidden states after the model's last norm) that are not taken
    yet. Pivots take turns by norm, visual ones first; in the authors' program a Python set of their
    places decides (see `DART`), and what is left over of equal shares is dropped.

    Parameters
    ----------
    layer : int
        Layers that see all tokens.
    pivots, words : int
        Visual and textual pivots.
    """

    name: ClassVar[str] = "dart-decoder"
    paper: ClassVar[str] = "arXiv 2502.11494"
    keeps: ClassVar[str] = "what is least like a few pivots, words among them, after two layers"
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_keys"})

    layer: int = 2
    pivots: int = 4
    words: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("layer", "pivots", "words"):
            check_count(self, field)

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        """See `DecoderMethod.stages`."""
        return {self.layer: 1.0}

    def choose(self, tokens: LayerTokens, k: int) -> Reduction:
        """See `DecoderMethod.choose`."""
        norms = tokens.keys.float().abs().sum(1)
        pivots = largest(norms, min(self.pivots, k))
        behind = tokens.words_behind()
        of_words = tokens.text_keys[behind].float().abs().sum(1)
        words = behind[largest(of_words, min(self.words, len(behind)))]
        unit = unit_rows(tokens.norm(tokens.features))
        asking = torch.cat((unit[pivots], unit_rows(tokens.norm(tokens.text[words]))))
        rest = least_alike(asking @ unit.T, pivots, k - len(pivots))
        return Reduction.picked(torch.cat((pivots, rest)), scores=norms)
