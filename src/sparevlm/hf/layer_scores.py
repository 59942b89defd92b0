"""Attention of a few words in one decoder layer, from its queries and keys alone.

The layer's own attention stays what it is, SDPA and FlashAttention included.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor


class LayerProbe:
    """Remembers what a decoder layer's projections gave in the last call.

    Parameters
    ----------
    attention
        The layer's attention module: `q_proj`, `k_proj`, perhaps `q_norm` and `k_norm`.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._query: Tensor | None = None
        self._key: Tensor | None = None
        self.embeddings: tuple[Tensor, Tensor] | None = None  # cos, sin of this call's columns
        self.mask: Tensor | None = None  # [B or 1, 1, L, P + L], where the layer was given one
        self.past: Tensor | None = None  # keys [B, H, P, C] cached before this call
        self.past_seen: Tensor | None = None  # which of them are no padding: [B, P]
        self._hooks = [
            attention.q_proj.register_forward_hook(self._took_query),
            attention.k_proj.register_forward_hook(self._took_key),
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self.forget()

    def forget(self) -> None:
        """Let go of a call's tensors."""
        self._query = self._key = self.embeddings = None
        self.mask = self.past = self.past_seen = None

    def _took_query(self, module: Any, args: Any, output: Tensor) -> None:
        if self.embeddings is not None:
            self._query = output

    def _took_key(self, module: Any, args: Any, output: Tensor) -> None:
        if self.embeddings is not None:
            self._key = output

    def keys(self, row: int) -> Tensor:
        """Keys of this call's columns after rotation: [H, L, C]."""
        assert self._key is not None
        return self._rotated(self._heads(self._key[row], "k_norm"), row, None)

    def _heads(self, values: Tensor, norm: str) -> Tensor:
        """[L, H * C] -> [H, L, C], normalised where the layer does that."""
        split = values.unflatten(-1, (-1, self._attention.head_dim))
        norm_module = getattr(self._attention, norm, None)
        return (split if norm_module is None else norm_module(split)).transpose(0, 1)

    def _rotated(self, values: Tensor, row: int, columns: Tensor | None) -> Tensor:
        assert self.embeddings is not None
        module = sys.modules[type(self._attention).__module__]
        cos, sin = (part[min(row, len(part) - 1)] for part in self.embeddings)
        if columns is not None:
            cos, sin = cos[columns], sin[columns]
        turned, _ = module.apply_rotary_pos_emb(values[None], values[None], cos[None], sin[None])
        return turned[0]

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
        """
        assert self._query is not None
        module = self._attention
        query = self._rotated(self._heads(self._query[row, columns], "q_norm"), row, columns)
        key = self.keys(row)
        if self.past is not None:
            key = torch.cat((self.past[row], key), dim=1)
        key = key.repeat_interleave(len(query) // len(key), 0)
        logits = query.float() @ key.float().transpose(1, 2) * module.scaling
        cap = getattr(module, "attn_logit_softcapping", None)
        if cap is not None:
            logits = (logits / cap).tanh() * cap
        return logits.masked_fill(~seen, -torch.inf).softmax(-1).mean(0)
