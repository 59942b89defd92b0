"""Attention of some columns in one decoder layer, from its queries and keys alone.

The layer's own attention stays what it is, SDPA and FlashAttention included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
        self.keys = keys.detach()
        if self._cache is None:
            return keys, values
        return self._cache.update(keys, values, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)


class Probe:
    """What is known of a decoder layer.

    Parameters
    ----------
    attention
        The layer's attention module.
    """

    def __init__(self, attention: Any) -> None:
        self.attention = attention
        self.turns: bool | None = None  # whether the layer rotates; None: not known yet


class LayerProbe(Probe):
    """Reads the queries and keys of a decoder layer off its running calls.

    Parameters
    ----------
    attention
        The layer's attention module.
    current
        Gives the `Taken` that the present thread's call fills at this layer; None: nothing is read.
    """

    def __init__(self, attention: Any, current: Callable[[], Taken | None]) -> None:
        super().__init__(attention)
        self._current = current
        self._hooks = [
            stock.projection(attention, "q").register_forward_hook(self._took_query),
            stock.projection(attention, "k").register_forward_hook(self._took_key),
            # At the attention and not at its layer, where checkpointing takes caches away.
            attention.register_forward_pre_hook(self._tapped, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _tapped(self, module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        taken = self._current()
        if taken is None:
            return None
        taken.tap = KeyTap(stock.cache_of(kwargs))
        return args, stock.with_tap(module, kwargs, taken.tap)

    def _took_query(self, module: Any, args: Any, output: Tensor) -> None:
        taken = self._current()
        if taken is not None:
            taken.query = output.detach()

    def _took_key(self, module: Any, args: Any, output: Tensor) -> None:
        taken = self._current()
        if taken is not None:
            taken.last_key = output[:, -1:].detach().clone()  # a view would hold all of them


@dataclass(eq=False)
class Taken:
    """What one call lets be read off a layer.

    Attributes
    ----------
    probe : Probe
    embeddings : (Tensor, Tensor)
        cos and sin [.., B or 1, L, C] of this call's columns.
    tap : KeyTap or None
        The cache that the layer is given, once it runs.
    mask : Tensor [B or 1, 1, L, P + L] or None
        Where the layer was given one.
    past : Tensor [B, H, P, C] or None
        Keys that were cached before this call.
    past_seen : Tensor [B, P] or None
        Which of them are no padding.
    query : Tensor [B, L, H * C] or None
        Queries, once the layer ran.
    last_key : Tensor [B, 1, H * C] or None
        The last key, once the layer ran.
    """

    probe: Probe
    embeddings: tuple[Tensor, Tensor]
    tap: KeyTap | None = None
    mask: Tensor | None = None
    past: Tensor | None = None
    past_seen: Tensor | None = None
    query: Tensor | None = None
    last_key: Tensor | None = None

    def keys(self, row: int) -> Tensor:
        """Keys of this call's columns, as the layer attends to them: [H, L, C]."""
        if self.tap is None or self.tap.keys is None:
            raise stock.unknown(f"{self._kind} caches its keys in a way that cannot be read")
        return self.tap.keys[row]

    @property
    def _kind(self) -> str:
        return type(self.probe.attention).__name__

    def _queries(self, row: int, columns: Tensor) -> Tensor:
        if self.query is None or self.last_key is None:
            raise self._refusal()
        if self.probe.turns is None:
            true = self.keys(row)[:, -1:]
            self._learn(row, self.last_key[row], true, self.query.shape[1] - 1)
        heads = stock.heads_of(self.probe.attention, self.query[row, columns], "q")
        return heads if self.probe.turns is False else self._rotated(heads, row, columns)

    def _learn(self, row: int, last_key: Tensor, true: Tensor, last: int) -> None:
        """Make the last key as queries are made, and see whether it is the one the layer has.

        Some layers do not rotate (Cohere2's of full attention); some models do it otherwise.
        """
        try:
            plain = stock.heads_of(self.probe.attention, last_key, "k")
            made = self._rotated(plain, row, torch.tensor([last], device=true.device))
        except (AttributeError, LookupError, RuntimeError, ValueError) as error:
            raise self._refusal() from error
        same, same_plain = (
            value.shape == true.shape and _near(value, true) for value in (made, plain)
        )
        if not (same or same_plain):
            raise self._refusal()
        if same != same_plain:  # at the first position both are the same
            self.probe.turns = same

    def _refusal(self) -> ValueError:
        return stock.unknown(
            f"{self._kind} makes its queries and keys in a way that cannot be read"
        )

    def _rotated(self, heads: Tensor, row: int, columns: Tensor) -> Tensor:
        cos, sin = (part[min(row, len(part) - 1), columns] for part in self.embeddings)
        return stock.rotated(self.probe.attention, heads, cos, sin)

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
        logits = stock.logits_of(self.probe.attention, query, key)
        return logits.masked_fill(~seen, -torch.inf).softmax(-1).mean(0)


@torch.no_grad()
def _near(value: Tensor, other: Tensor) -> bool:
    """Whether two are equal but for rounding."""
    scale = float(other.float().abs().max())
    return float((value - other).float().abs().max()) <= 0.02 * scale
