"""Pruning inside the decoder by masking: tokens stay, unseen. What dropping must equal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock


def layers_of(model: Any) -> Any:
    return model.base_model.get_decoder().layers


def added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to logits."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


@contextmanager
def masking(model: Any, dropped: dict[int, list[Tensor]]) -> Iterator[None]:
    """Stock attention that does not see `dropped` [layer][row] columns from a layer on."""
    hooks = []

    def hide(at: int) -> Any:
        def before(module: Any, args: Any, kwargs: Any) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            mask, cache = kwargs.get("attention_mask"), stock.cache_of(kwargs)
            past = 0 if cache is None else cache.layers[0].get_seq_length()
            past -= hidden.shape[1] if at and cache is not None else 0
            rows, queries = hidden.shape[:2]
            if mask is None:
                seen = torch.ones(queries, past + queries, dtype=torch.bool).tril(past)
                mask = added(seen, hidden.dtype).expand(rows, 1, -1, -1)
            elif mask.dtype == torch.bool:
                mask = added(mask, hidden.dtype)
            mask = mask.expand(rows, -1, -1, -1).clone()
            for stage in [s for s in dropped if s <= at]:
                for row, columns in enumerate(dropped[stage]):
                    # Of columns that look at nothing else: softmax over an empty row.
                    mask[row, :, :, columns] = torch.finfo(hidden.dtype).min
            return args, {**kwargs, "attention_mask": mask}

        return before

    for at, layer in enumerate(layers_of(model)):
        hooks.append(layer.register_forward_pre_hook(hide(at), with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
