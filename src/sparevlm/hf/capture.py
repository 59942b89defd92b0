"""Reading attention, keys and projector inputs off a vision encoder while it runs.

Hooks on the projections of single layers: the encoder keeps its attention implementation (SDPA,
FlashAttention), and only the rows asked for are ever computed.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from sparevlm.encoder import AttentionOf, Layer, Projector, layer_index
from sparevlm.hf.families import Family


class Capture:
    """Captures what a method needs while the block runs; `fields` then gives it for each image.

    Parameters
    ----------
    model
        A supported transformers model.
    needs : frozenset of str
        What the method requires.
    attention_of : tuple of AttentionOf
    keys_of : Layer
        See `PruningMethod`.
    read : int
        Index of the hidden state that the projector reads; 0 is the embedding.

    Raises
    ------
    ValueError
        If this encoder has no layer or projection of the kind.
    """

    def __init__(
        self,
        model: Any,
        family: Family,
        needs: frozenset[str],
        attention_of: tuple[AttentionOf, ...],
        keys_of: Layer,
        read: int,
    ) -> None:
        self._tower = getattr(model.base_model, family.tower)
        self._projector: Any = getattr(model.base_model, family.projector or "_", None)
        self._needs = needs
        self._attention_of = attention_of if "encoder_attention" in needs else ()
        self._layers: list[Any] = []
        self._found: dict[tuple[int, str], Tensor] = {}
        self._states: Tensor | None = None
        self._hooks: list[Any] = []
        self._thread = threading.get_ident()
        self._keys: int | None = None
        if self._attention_of or "encoder_keys" in needs:
            self._layers = [part for part in self._tower.modules() if _is_attention(part)]
            if not self._layers:
                raise ValueError(
                    f"{type(self._tower).__name__} has no attention that can be read: "
                    "choose a method that needs features only"
                )
            depth = len(self._layers)
            read = layer_index(read if read < 0 else max(read - 1, 0), 0, depth)
            self._rows = [layer_index(of.layer, read, depth) for of in self._attention_of]
            self._keys = layer_index(keys_of, read, depth) if "encoder_keys" in needs else None

    def __enter__(self) -> Capture:
        wanted = {(layer, name) for layer in self._rows_wanted() for name in ("q_proj", "k_proj")}
        if self._keys is not None:
            wanted.add((self._keys, "k_proj"))
        for layer, name in sorted(wanted):
            part = getattr(self._layers[layer], name)
            self._hooks.append(part.register_forward_hook(self._keep(layer, name)))
        if "projector" in self._needs:
            if self._projector is None:
                raise ValueError(
                    "this model has no projector that can be read: choose a method that needs "
                    "features only"
                )
            self._hooks.append(self._projector.register_forward_pre_hook(self._keep_states))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _rows_wanted(self) -> set[int]:
        return set(self._rows) if self._attention_of else set()

    def _keep(self, layer: int, name: str) -> Any:
        def hook(module: Any, args: Any, output: Tensor) -> None:
            if threading.get_ident() == self._thread:
                self._found[layer, name] = output.detach()

        return hook

    def _keep_states(self, module: Any, args: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == self._thread:
            self._states = args[0].detach()

    @torch.no_grad()
    def fields(self, i: int, tokens: int, class_state: Tensor | None) -> dict[str, Any]:
        """Fields of `VisualTokens` for image i, which has so many visual tokens."""
        found: dict[str, Any] = {}
        if self._attention_of:
            found["encoder_attention"] = tuple(
                self._attention(i, layer, of, tokens)
                for layer, of in zip(self._rows, self._attention_of, strict=True)
            )
        if self._keys is not None:
            keys = self._heads(self._found[self._keys, "k_proj"][i], self._layers[self._keys])
            found["encoder_keys"] = keys[_classes(len(keys), tokens) :]
        if self._states is not None:
            if self._states.ndim != 3 or self._states.shape[1] != tokens:
                raise _mismatch(self._states.shape[-2], tokens)
            found["projector"] = Projector(self._states[i], self._project, class_state)
        return found

    def _attention(self, i: int, layer: int, of: AttentionOf, tokens: int) -> Tensor:
        part = self._layers[layer]
        queries, keys = (self._found[layer, name][i] for name in ("q_proj", "k_proj"))
        first = _classes(len(keys), tokens)
        if of.row == "class" and first:
            queries = queries[:1]
        scale = part.scale
        if of.heads:
            queries, keys = self._heads(queries, part), self._heads(keys, part)
        else:
            scale = keys.shape[-1] ** -0.5
            queries, keys = queries[:, None], keys[:, None]
        return _mean_attention(queries, keys, scale)[:, first:]

    @staticmethod
    def _heads(rows: Tensor, part: Any) -> Tensor:
        return rows.unflatten(-1, (part.num_heads, -1))

    def _project(self, states: Tensor) -> Tensor:
        with torch.no_grad():
            projected: Tensor = self._projector(states[None])[0]
        return projected


def _mean_attention(queries: Tensor, keys: Tensor, scale: float) -> Tensor:
    """Softmax attention [H, L] from queries [Q, H, C] to keys [L, H, C], averaged over queries."""
    if queries.dtype != torch.float64:
        queries, keys = queries.float(), keys.float()
    heads = []
    for head in range(queries.shape[1]):  # one at a time: a matrix of all would be large
        scores = (queries[:, head] * scale) @ keys[:, head].T
        heads.append(scores.softmax(-1).mean(0))
    return torch.stack(heads)


def _classes(length: int, tokens: int) -> int:
    """How many class tokens stand before the patches."""
    if length - tokens not in (0, 1):
        raise _mismatch(length, tokens)
    return length - tokens


def _mismatch(length: int, tokens: int) -> ValueError:
    return ValueError(
        f"the vision encoder has {length} positions and the language model gets {tokens} visual "
        "tokens of a picture: this method works where each patch is one visual token"
    )


def _is_attention(part: nn.Module) -> bool:
    return all(hasattr(part, name) for name in ("q_proj", "k_proj", "num_heads", "scale"))
