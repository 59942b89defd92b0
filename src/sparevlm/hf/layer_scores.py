"""Attention of some columns in one decoder layer, from its queries and keys alone.

The layer's own attention stays what it is, SDPA and FlashAttention included.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock


class KeyTap:
    """A cache, or none, that a layer is given instead of its own: it lets the keys be seen."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self.keys: Tensor | None = None

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Cache as the true one does."""
        self.keys = keys
        if self._cache is None:
            return keys, values
        return self._cache.update(keys, values, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


class LayerProbe:
    """Remembers the queries and keys of a decoder layer in the last call.

    Parameters
    ----------
    attention
        The layer's attention module.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._turns: bool | None = None  # whether the layer rotates; None: not known yet
        self.forget()
        self._hooks = [
            stock.projection(attention, "q").register_forward_hook(self._took_query),
            stock.projection(attention, "k").register_forward_hook(self._took_key),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self.forget()

    def forget(self) -> None:
        """Let go of a call's tensors."""
        self._query: Tensor | None = None
        self._last_key: Tensor | None = None
        self.tap: KeyTap | None = None
        self.embeddings: tuple[Tensor, Tensor] | None = None  # cos, sin of this call's columns
        self.mask: Tensor | None = None  # [B or 1, 1, L, P + L], where the layer was given one
        self.past: Tensor | None = None  # keys [B, H, P, C] cached before this call
        self.past_seen: Tensor | None = None  # which of them are no padding: [B, P]

    def _took_query(self, module: Any, args: Any, output: Tensor) -> None:
        if self.embeddings is not None:
            self._query = output

    def _took_key(self, module: Any, args: Any, output: Tensor) -> None:
        if self.embeddings is not None:
            self._last_key = output[:, -1:].clone()  # a view would hold all of them

    def keys(self, row: int) -> Tensor:
        """Keys of this call's columns, as the layer attends to them: [H, L, C]."""
        if self.tap is None or self.tap.keys is None:
            raise stock.unknown(
                f"{type(self._attention).__name__} caches its keys in a way that cannot be read"
            )
        return self.tap.keys[row]

    def _queries(self, row: int, columns: Tensor) -> Tensor:
        assert self._query is not None
        if self._turns is None:
            self._learn(row)
        heads = stock.heads_of(self._attention, self._query[row, columns], "q")
        return heads if self._turns is False else self._rotated(heads, row, columns)

    def _learn(self, row: int) -> None:
        """Make the last key as queries are made, and see whether it is the one the layer has.

        Some layers do not rotate (Cohere2's of full attention); some models do it otherwise.
        """
        assert self._last_key is not None
        true = self.keys(row)[:, -1:]
        last = torch.tensor([self._query.shape[1] - 1], device=true.device)  # type: ignore[union-attr]
        try:
            plain = stock.heads_of(self._attention, self._last_key[row], "k")
            made = self._rotated(plain, row, last)
        except (AttributeError, LookupError, RuntimeError, ValueError) as error:
            raise self._refusal() from error
        same, same_plain = (one.shape == true.shape and _near(one, true) for one in (made, plain))
        if not (same or same_plain):
            raise self._refusal()
        if same != same_plain:  # at the first position both are the same
            self._turns = same

    def _refusal(self) -> ValueError:
        refusal: ValueError = stock.unknown(
            f"{type(self._attention).__name__} makes its queries and keys in a way that cannot be "
            "read"
        )
        return refusal

    def _rotated(self, values: Tensor, row: int, columns: Tensor) -> Tensor:
        assert self.embeddings is not None
        cos, sin = (part[min(row, len(part) - 1), columns] for part in self.embeddings)
        return stock.rotated(self._attention, values, cos, sin)

    def attention(self, row: int, columns: Tensor, seen: Tensor) -> Tensor:
        """What queries pay to all columns, cached ones first.

        Parameters
        ----------
        row : int
            Prompt of the batch.
        columns : Tensor [R], int64
            Columns of this call whose queries ask.
        seen : Tensor [R, P + L], bool
            What each may attend to.

        Returns
        -------
        Tensor [R, P + L], float32
            Mean over heads of the softmax.

        Raises
        ------
        ValueError
            If the layer makes its queries in a way that is not known.
        """
        query, key = self._queries(row, columns), self.keys(row)
        if self.past is not None:
            key = torch.cat((self.past[row], key), dim=1)
        key = key.repeat_interleave(len(query) // len(key), 0)
        logits = stock.logits_of(self._attention, query, key)
        return logits.masked_fill(~seen, -torch.inf).softmax(-1).mean(0)


@torch.no_grad()
def _near(one: Tensor, other: Tensor) -> bool:
    """Whether two are equal but for rounding."""
    scale = float(other.float().abs().max())
    return float((one - other).float().abs().max()) <= 0.02 * scale
