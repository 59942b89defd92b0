"""Layers of a vision encoder behind the last one that is read: a pruned call passes them over.

LLaVA's projector reads the states before the last layer; stock code runs that layer and drops what
it gives (vLLM does not even load it). Its place among the hidden states is kept, since these are
counted from the end.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sparevlm.hf import stock

_LOCK = threading.Lock()


def unread_layers(
    model: Any, tower: nn.Module, read: int | Sequence[int], also: int
) -> list[nn.Module]:
    """Layers of a model's vision tower that no one reads what they give.

    Parameters
    ----------
    model
        A supported transformers model.
    tower : Module
        Its vision tower.
    read : int or sequence of int
        Indices of the hidden states that the projector reads; 0 is the embedding.
    also : int
        The last layer, counted from 0, that something else is read off; -1: none.

    Returns
    -------
    list of Module
        Empty where it cannot be told, or a layer's call is not what its class says.
    """
    layers = stock.vision_layers(tower)
    if not stock.reads_a_layer(model) or _compiled([model, model.base_model, tower, *layers]):
        return []
    count = len(layers) + 1
    indices = [read] if isinstance(read, int) else list(read)
    if not all(-count <= index < count for index in indices):
        return []  # stock says what is wrong
    needed = max([also + 1, *(index % count for index in indices)])
    return [layer for layer in layers[needed:] if _Passed.can_stand_for(layer)]


def _compiled(parts: Sequence[Any]) -> bool:
    """Whether torch.compile looks on, which would compile anew for a call of another kind."""
    return torch.compiler.is_compiling() or any(
        "_orig_mod" in part._modules or getattr(part, "_compiled_call_impl", None) is not None
        for part in parts
    )


@contextmanager
def passed_over(layers: Sequence[nn.Module]) -> Iterator[None]:
    """In this block and thread layers give back what they get; afterwards they are as before."""
    with _LOCK:
        for layer in layers:
            _Passed.of(layer).threads.append(threading.get_ident())
    try:
        yield
    finally:
        with _LOCK:
            for layer in layers:
                passed = _Passed.of(layer)
                passed.threads.remove(threading.get_ident())
                if not passed.threads:  # other threads may be at work
                    del layer.forward


class _Passed:
    """In the place of a layer's `forward` while some threads pass it over."""

    def __init__(self, layer: nn.Module) -> None:
        self._forward = layer.forward
        self.threads: list[int] = []

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() in self.threads:
            return hidden_states
        return self._forward(hidden_states, *args, **kwargs)

    @classmethod
    def can_stand_for(cls, layer: nn.Module) -> bool:
        """Whether nothing else, accelerate's offloading for one, has taken that place."""
        return isinstance(vars(layer).get("forward"), cls | None)

    @classmethod
    def of(cls, layer: nn.Module) -> _Passed:
        """That of a layer, put there if need be."""
        found = vars(layer).get("forward")
        if not isinstance(found, cls):
            found = cls(layer)
            layer.forward = found
        return found
