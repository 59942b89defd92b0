"""Attention that some columns will pay in a layer that has not run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.hf.decoder.probe import KeyTap, Taken


@dataclass(eq=False)
class Coming(Taken):
    """`Taken` of a layer before it runs: keys of all columns, queries of those alone that ask.

    Attributes
    ----------
    layer
        The layer.
    hidden : Tensor [B, L, D]
        What it would get.
    """

    layer: Any = None
    hidden: Tensor = field(default_factory=lambda: torch.empty(0))
    _normed: dict[int, Tensor] = field(default_factory=dict)  # by row
    _keys: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._home = stock.device_of(self.layer, self.hidden.device)
        cos, sin = self.embeddings
        self.embeddings = cos.to(self._home), sin.to(self._home)
        if self.past is not None:
            self.past = self.past.to(self._home)

    @torch.no_grad()
    def keys(self, row: int) -> Tensor:
        """Keys [H, L, C] of all columns, as the layer would attend to them."""
        if row not in self._keys:
            hidden = self.hidden[row].to(self._home)
            self._normed[row] = stock.input_norm(self.layer)(hidden)
            if self.probe.turns is None:
                self._run(row, len(hidden) - 1)
            plain = self._projected(row, slice(None), "k")
            columns = torch.arange(plain.shape[1], device=plain.device)
            turned = self.probe.turns is not False
            self._keys[row] = self._rotated(plain, row, columns) if turned else plain
        return self._keys[row]

    def _queries(self, row: int, columns: Tensor) -> Tensor:
        self.keys(row)
        heads = self._projected(row, columns, "q")
        return heads if self.probe.turns is False else self._rotated(heads, row, columns)

    def _projected(self, row: int, columns: Any, of: str) -> Tensor:
        attention = self.probe.attention
        values = stock.projection(attention, of)(self._normed[row][columns])
        return stock.heads_of(attention, values, of)

    def _run(self, row: int, last: int) -> None:
        """Let the attention make its key of the last column, to see whether it rotates."""
        attention, normed = self.probe.attention, self._normed[row][None, last:]
        cos, sin = (part[min(row, len(part) - 1), last:][None] for part in self.embeddings)
        tap = KeyTap(None)
        try:
            stock.attend(attention, normed, (cos, sin), tap)
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise self._refusal() from error
        if tap.keys is None:
            raise self._refusal()
        self._learn(row, stock.projection(attention, "k")(normed[0]), tap.keys[0], last)

    @torch.no_grad()
    def attention(self, row: int, columns: Tensor, seen: Tensor) -> Tensor:
        """See `Taken.attention`."""
        paid = super().attention(row, columns.to(self._home), seen.to(self._home))
        return paid.to(columns.device)
