"""What a method may ask of the model besides the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Layer = int | float | None
"""A layer of the encoder: its index from 0, or from the end if negative; a float is a share of the
depth; None is the layer whose output the projector reads (-2 of LLaVA-1.5's tower)."""


@dataclass(frozen=True)
class AttentionOf:
    """Attention that a method reads: [H, N], one row for all patches instead of a matrix.

    Parameters
    ----------
    layer : int, float or None
        See `Layer`.
    row : "class" or "received"
        What the class token gives each patch; or what each patch receives, averaged over all
        queries. A tower without a class token (SigLIP) has "received" in place of "class".
    heads : bool
        Each head by itself; False: queries and keys are not split into heads, and H is 1.
    """

    layer: Layer = None
    row: Literal["class", "received"] = "class"
    heads: bool = True


@dataclass(frozen=True, eq=False)
class Projector:
    """The rows that go into the projector, and the projector.

    Attributes
    ----------
    states : Tensor [N, C]
        One row a visual token.
    apply : callable
        Rows [M, C] -> features [M, D].
    class_state : Tensor [C] or None
        The class token's row, where the encoder has one.
    """

    states: Tensor
    apply: Callable[[Tensor], Tensor]
    class_state: Tensor | None = None

    def __call__(self, states: Tensor) -> Tensor:
        """Rows [M, C] as features [M, D], in the dtype of `states`."""
        return self.apply(states.to(self.states.dtype)).to(states.dtype)


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """What the first layer of the language model makes of embeddings, before it rotates them.

    Attributes
    ----------
    queries, keys : callable
        Rows [M, D], words' or pictures' -> [M, H, C]. Heads that share a key have it each.
    """

    queries: Callable[[Tensor], Tensor]
    keys: Callable[[Tensor], Tensor]


def layer_index(layer: Layer, read: int, depth: int) -> int:
    """Index of a `Layer` in an encoder of `depth` layers whose layer `read` the projector reads.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    if layer is None:
        return read
    index = round(layer * depth) if isinstance(layer, float) else layer
    if not -depth <= index < depth:
        raise ValueError(f"layer {layer} was asked for, and the vision encoder has {depth}")
    return index % depth
