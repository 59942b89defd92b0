"""HAWK: what the question's words look for in the first layer, head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from sparevlm.budgets import is_real
from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens

# What the authors measured of each head of a model by leaving it out, to a common factor.
_MEASURED = {
    "qwen2.5-vl-7b": (
        0.0875, 0.3000, 0.0480, 0.0321, 0.0104, 0.0102, 0.0336, 0.0460, 0.0540, 0.0472,
        0.0234, 0.0537, 0.0109, 0.0573, 0.0276, 0.0403, 0.0429, 0.0352, 0.0162, 0.0519,
        0.0553, 0.0266, 0.0222, 0.0480, 0.0337, 0.0250, 0.0000, 0.0224,
    ),
}  # fmt: skip
_NAMES = ("equal", *_MEASURED)


@dataclass(frozen=True)
class HAWK(PickingMethod):
    """Head importance-aware pruning (arXiv 2604.07812, CVPR 2026), before the language model.

    s_i = sum_h w_h u_hi: u_h is the mean over the question's words of q_h . k_hi, of length 1 over
    the picture; q and k are the queries and keys that the language model's first layer makes of
    words and tokens, before it rotates them. The k largest are kept. w_h is how much the answers
    suffer without head h of all layers, measured once for a model; the authors give it out for
    Qwen2.5-VL-7B alone, and with "equal" heads (ours) the method is not theirs. Their words are
    all behind the picture up to the end of the user's turn, ours the question. Without a question
    the tokens themselves ask (ours). (Molmo 2 adds tokens to the embeddings of their placeholders;
    ours are the tokens alone.)

    Parameters
    ----------
    importance : "equal", "qwen2.5-vl-7b", or tuple of float
        w_h, at least 0, one a head of the language model's queries.
    """

    name: ClassVar[str] = "hawk"
    paper: ClassVar[str] = "arXiv 2604.07812"
    keeps: ClassVar[str] = "what the question's words look for, each head by its importance"
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query", "first_layer"})
    compares: ClassVar[Literal["clip", "llm", "llm only"]] = "llm only"

    importance: str | tuple[float, ...] = "equal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.importance not in _NAMES and not _are_weights(self.importance):
            raise ValueError(
                f"HAWK(importance={self.importance!r}): importance must be one of "
                f"{', '.join(map(repr, _NAMES))}, or a tuple of numbers of at least 0, not all 0"
            )

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`.

        Raises
        ------
        ValueError
            If the first layer is missing, or has another number of heads than `importance`.
        """
        rows, layer = checked_rows(tokens.features), tokens.first_layer
        if layer is None:
            raise ValueError(
                "the language model's first layer is missing: attach the method to a model, or "
                "give VisualTokens(first_layer=FirstLayer(queries, keys))"
            )
        asking = tokens.features if tokens.query is None else tokens.query.texts
        wanted = layer.queries(asking).to(rows).mean(0)
        found = torch.einsum("nhc,hc->hn", layer.keys(tokens.features).to(rows), wanted)
        unit = torch.nn.functional.normalize(found, dim=1)
        scores = self._weights(unit) @ unit
        return Reduction.picked(largest(scores, k), scores=scores)

    def _weights(self, unit: Tensor) -> Tensor:
        """Importance [H], of sum 1, for rows [H, N]."""
        if self.importance == "equal":
            return unit.new_full((len(unit),), 1 / len(unit))
        given = self.importance
        weights = unit.new_tensor(_MEASURED[given] if isinstance(given, str) else given)
        if len(weights) != len(unit):
            raise ValueError(
                f"HAWK(importance={given!r}) is for {len(weights)} heads, and the first layer of "
                f"this language model has {len(unit)}: give one number a head"
            )
        return weights / weights.sum()


def _are_weights(values: Any) -> bool:
    return (
        isinstance(values, tuple)
        and all(is_real(value) and value >= 0 for value in values)
        and sum(values) > 0
    )
