"""Where kept tokens lie: they keep the positions that they have in the whole prompt.

The runner asks for positions before the encoder has run, so all that stays of a picture or video is
placed at its begin there; how far behind that each token lies travels behind its features, and is
added in `forward`.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from sparevlm.serving.arguments import elements_of
from sparevlm.serving.item import PrunedItem
from sparevlm.serving.model import Pruned
from sparevlm.serving.settings import KEY
from sparevlm.serving.units import Given

_BASE = 256  # integers up to here are exact in bfloat16
_DIGITS = 3  # for each number


class Placed(Pruned):
    """Mixin of a vLLM model that the runner asks for positions [3, L], as it does with M-RoPE."""

    supports_mrope = True

    # Numbers that say how far a token lies behind the begin: one for each axis of positions.
    axes: int = 1

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        config = vllm_config.model_config
        # vLLM's own pruning of videos writes places of its own behind features.
        theirs = config.multimodal_config.is_multimodal_pruning_enabled()
        self._asked: bool = config.uses_mrope and not theirs
        width = config.get_inputs_embeds_size()
        self._width: int = width * (1 + self._levels)
        self._moved: Tensor | None = None

    @property
    def _levels(self) -> int:
        """Levels of the encoder that deeper layers of the language model get (Qwen3-VL)."""
        return getattr(self, "deepstack_num_level", 0)

    def plain(self, features: Tensor) -> Tensor:
        """See `Pruned`."""
        return features[:, : features.shape[1] // (1 + self._levels)]

    def whole_positions(self, tokens: list[int], features: list[Any]) -> tuple[Tensor, int]:
        """Positions [3, L] of a prompt without pruning, and how far what follows is ahead."""
        raise NotImplementedError

    def placed(self, item: PrunedItem, parts: list[Given], rows: Tensor, places: Tensor) -> Tensor:
        """See `Pruned`: some columns more."""
        if not self._asked:
            return rows
        if item.original:
            moves = self._moves(item, parts).to(rows.device)[:, places]
        else:
            moves = torch.arange(len(rows), device=rows.device).expand(self.axes, -1)
        powers = _BASE ** torch.arange(_DIGITS - 1, -1, -1, device=rows.device)
        digits = (moves[..., None] // powers % _BASE).permute(1, 0, 2).flatten(1)
        return torch.cat([rows, digits.to(rows.dtype)], 1)

    def _moves(self, item: PrunedItem, parts: list[Given]) -> Tensor:
        """How far behind the begin each token of a whole item lies: [axes, N], on the CPU."""
        features = []
        for part, given in zip(item.parts, parts, strict=True):
            data = {
                name: SimpleNamespace(data=value[0])
                for name, value in given.arguments.items()
                if isinstance(value, Tensor) and value.ndim and len(value) == 1
            }
            first, last = item.starts[part.first], item.starts[part.last]
            place = SimpleNamespace(offset=first, length=last - first)
            features.append(SimpleNamespace(modality=part.modality, data=data, mm_position=place))
        return self.whole_positions(item.whole(), features)[0][: self.axes].long()

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """See `SupportsMultiModal`: takes the numbers off again, and remembers them."""
        self._moved = None
        if self._asked and multimodal_embeddings and is_multimodal is not None:
            rows, width = list(multimodal_embeddings), self._width
            count = self.axes * _DIGITS
            if any(part.shape[1] > width for part in rows):
                digits = torch.cat([
                    part[:, width:] if part.shape[1] > width
                    else part.new_zeros(len(part), count) for part in rows
                ]).long()  # fmt: skip
                powers = _BASE ** torch.arange(_DIGITS - 1, -1, -1, device=digits.device)
                numbers = (digits.unflatten(1, (self.axes, _DIGITS)) * powers).sum(-1).T
                moved = torch.zeros(3, len(input_ids), dtype=torch.long, device=input_ids.device)
                moved[:, is_multimodal.to(moved.device)] = numbers.expand(3, -1).to(moved.device)
                self._moved = moved
            multimodal_embeddings = [part[:, :width] for part in rows]
        embedded: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return embedded

    def forward(self, input_ids: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        """See the stock model: kept tokens go to their own places."""
        moved, self._moved = self._moved, None
        if moved is not None:
            positions = positions.clone()
            positions[:, : moved.shape[1]] += moved.to(positions.dtype)
        return super().forward(  # type: ignore[misc]
            input_ids, self.stock_positions(positions), *args, **kwargs
        )

    def stock_positions(self, positions: Tensor) -> Tensor:
        """Positions as the stock language model takes them."""
        return positions

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """See `SupportsMRoPE`: the positions of the whole prompt, of what is left of it."""
        if all(KEY not in feature.data for feature in mm_features):
            return self.whole_positions(input_tokens, mm_features)
        whole: list[int] = []
        kept: list[int] = []
        shifted: list[Any] = []
        done = 0
        for feature in sorted(mm_features, key=lambda f: f.mm_position.offset):
            place = feature.mm_position
            text = input_tokens[done : place.offset]
            kept += range(len(whole), len(whole) + len(text))
            whole += text
            tokens = input_tokens[place.offset : place.offset + place.length]
            done, first = place.offset + place.length, len(whole)
            if KEY in feature.data:
                kept += [first] * len(tokens)
                item = PrunedItem.from_tensor(feature.data[KEY].data)
                whole += item.whole() if item.original else tokens
                shifted += _parts(feature, item, first)
            else:
                kept += range(first, first + len(tokens))
                whole += tokens
                shifted += [_at(feature, first, len(tokens))]
        kept += range(len(whole), len(whole) + len(input_tokens) - done)
        whole += input_tokens[done:]
        positions, ahead = self.whole_positions(whole, shifted)
        return positions[:, kept], ahead + len(whole) - len(input_tokens)


def _parts(feature: Any, item: PrunedItem, offset: int) -> list[Any]:
    """The pictures and videos of an item at a place of the whole prompt."""
    data = elements_of(feature.data, len(item.parts))
    found = []
    for part, own in zip(item.parts, data, strict=True):
        first, last = item.starts[part.first], item.starts[part.last]
        alone = replace(feature, modality=part.modality, data=own)
        found.append(_at(alone, offset + first, last - first))
    return found


def _at(feature: Any, offset: int, length: int) -> Any:
    place = replace(feature.mm_position, offset=offset, length=length, is_embed=None)
    return replace(feature, mm_position=place)


class OnLine(Placed):
    """Mixin of a model with one position a token.

    The runner asks it too where the server's start said so, see `config`.
    """

    def whole_positions(self, tokens: list[int], features: list[Any]) -> tuple[Tensor, int]:
        """See `Placed`: one after the other."""
        return torch.arange(len(tokens)).expand(3, -1), 0

    def stock_positions(self, positions: Tensor) -> Tensor:
        """See `Placed`: one row; an answer longer than the model's positions stays at the last."""
        if positions.ndim == 1:
            return positions
        last = self.config.get_text_config().max_position_embeddings - 1  # type: ignore[attr-defined]
        return positions[0].clamp(max=last)


class OnGrid(Placed):
    """Mixin of a model with M-RoPE: time, row and column."""

    axes = 3

    def whole_positions(self, tokens: list[int], features: list[Any]) -> tuple[Tensor, int]:
        """See `Placed`: the stock model's."""
        # Past our own, which asks for these.
        positions, ahead = super(Placed, self).get_mrope_input_positions(  # type: ignore[misc]
            tokens, features
        )
        return positions, int(ahead)
