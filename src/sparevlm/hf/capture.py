"""Reading attention, keys and projector inputs off a vision encoder while it runs.

Hooks on the projections of single layers: the encoder keeps its attention implementation (SDPA,
FlashAttention), and only the rows asked for are ever computed.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from sparevlm.encoder import AttentionOf, Layer, Projector, layer_index
from sparevlm.families import Family
from sparevlm.hf import stock
from sparevlm.hf.layout import Layout, class_tokens


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
        self._autocast: dict[str, Any] = {}
        self._hooks: list[Any] = []
        self._thread = threading.get_ident()
        self._keys: int | None = None
        if self._attention_of or "encoder_keys" in needs:
            self._layers = stock.vision_attentions(self._tower)
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
        wanted = {(layer, name) for layer in self._rows_wanted() for name in ("q", "k")}
        if self._keys is not None:
            wanted.add((self._keys, "k"))
        for layer, name in sorted(wanted):
            part = stock.projection(self._layers[layer], name)
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

    @property
    def last(self) -> int:
        """The last layer, counted from 0, that attention or keys are read off; -1: none."""
        return max([*self._rows_wanted(), -1 if self._keys is None else self._keys], default=-1)

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
            kind = args[0].device.type
            self._autocast = {
                "device_type": kind,
                "dtype": torch.get_autocast_dtype(kind),
                "enabled": torch.is_autocast_enabled(kind),
            }

    @torch.no_grad()
    def fields(
        self, features: list[Tensor], classes: list[Any], layout: Layout, *, rowwise: bool
    ) -> list[dict[str, Any]]:
        """Fields of `VisualTokens` for each entry of the features [N_i, D].

        `classes` are the states of class tokens, or None each. `rowwise`: the projector takes one
        patch at a time, whatever is between patches and tokens.
        """
        fields: list[dict[str, Any]] = [{} for _ in features]
        tokens = [len(rows) for rows in features]
        if self._attention_of:
            each = [
                _placed(self._attention(layer, of, tokens[0]), layout, tokens)
                for layer, of in zip(self._rows, self._attention_of, strict=True)
            ]
            for entry, maps in zip(fields, zip(*each, strict=True), strict=True):
                entry["encoder_attention"] = tuple(rows.T for rows in maps)
        if self._keys is not None:
            keys = _placed(self._found[self._keys, "k"], layout, tokens)
            for entry, rows in zip(fields, keys, strict=True):
                entry["encoder_keys"] = self._heads(rows, self._layers[self._keys])
        if self._states is not None:
            states = self._states
            if states.ndim != 3 or not (rowwise or {states.shape[1]} == set(tokens)):
                raise _mismatch(states.shape[-2], tokens[0])
            placed = _placed(states, layout, tokens)
            for entry, rows, state in zip(fields, placed, classes, strict=True):
                entry["projector"] = Projector(rows, self._project, state)
        return fields

    def _attention(self, layer: int, of: AttentionOf, tokens: int) -> Tensor:
        """Attention [T, L, H] to all positions of each tile."""
        part = self._layers[layer]
        tiles = []
        for queries, keys in zip(*(self._found[layer, name] for name in ("q", "k")), strict=True):
            length, scale = len(keys), part.scale
            first = length - tokens if length - tokens in (0, 1) else class_tokens(length)
            if of.row == "class" and first:
                queries = queries[:1]
            if of.heads:
                queries, keys = self._heads(queries, part), self._heads(keys, part)
            else:
                scale = keys.shape[-1] ** -0.5
                queries, keys = queries[:, None], keys[:, None]
            tiles.append(_mean_attention(queries, keys, scale).T)
        return torch.stack(tiles)

    @staticmethod
    def _heads(rows: Tensor, part: Any) -> Tensor:
        return rows.unflatten(-1, (part.num_heads, -1))

    def _project(self, states: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast(**self._autocast):  # as when it was captured
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


def _placed(rows: Tensor, layout: Layout, tokens: list[int]) -> list[Tensor]:
    placed = layout(rows) if rows.ndim == 3 else None
    if placed is None:
        raise _mismatch(rows.shape[-2], tokens[0])
    return placed


def _mismatch(length: int, tokens: int) -> ValueError:
    return ValueError(
        f"the vision encoder has {length} positions and the language model gets {tokens} visual "
        "tokens of a picture, which this method cannot put beside each other: choose one that "
        "needs features only"
    )
