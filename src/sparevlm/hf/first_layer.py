"""Queries and keys of the language model's first layer, of rows that are given to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparevlm.encoder import FirstLayer
from sparevlm.hf import stock


def first_layer_of(model: Any) -> FirstLayer:
    """The first layer of a model's language model, for methods that need it.

    Raises
    ------
    ValueError
        If it has no separate queries and keys, or no norm of the name that is known.
    """
    decoder = stock.decoder_of(model)
    layers, attention = stock.layers_of(decoder), next(iter(stock.attentions(decoder)), None)
    if not stock.reads_attention(attention):
        raise stock.unknown(
            f"the first layer of {type(decoder).__name__} has no separate queries and keys",
            "methods that do not need it still work",
        )
    norm = stock.input_norm(layers[0])

    @torch.no_grad()
    def heads(rows: Tensor, of: str) -> Tensor:
        made = stock.projection(attention, of)(norm(rows))
        return stock.heads_of(attention, made, of).transpose(0, 1)

    def queries(rows: Tensor) -> Tensor:
        return heads(rows, "q")

    def keys(rows: Tensor) -> Tensor:
        made, shared = heads(rows, "k"), stock.sharing(attention)
        return made.repeat_interleave(shared, 1)

    return FirstLayer(queries, keys)
