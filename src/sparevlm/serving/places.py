"""Where kept tokens lie: they keep the positions that they have in the whole picture.

The runner asks for positions before the encoder has run, so a kept token is placed at the corner of
its picture there; two numbers travel behind its features, and are added in `forward`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparevlm.serving.item import PrunedItem
from sparevlm.serving.model import Pruned
from sparevlm.serving.settings import KEY

_BASE = 256  # integers up to here are exact in bfloat16
_DIGITS = 4  # two for each number


class Placed(Pruned):
    """Mixin of a vLLM model that the runner asks for positions [3, L], as it does with M-RoPE."""

    supports_mrope = True

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._asked: bool = vllm_config.model_config.uses_mrope
        width = vllm_config.model_config.get_inputs_embeds_size()
        self._width: int = width * (1 + self._levels)
        self._moved: Tensor | None = None

    @property
    def _levels(self) -> int:
        """Levels of the encoder that deeper layers of the language model get (Qwen3-VL)."""
        return getattr(self, "deepstack_num_level", 0)

    def plain(self, features: Tensor) -> Tensor:
        """See `Pruned`."""
        return features[:, : features.shape[1] // (1 + self._levels)]

    def numbers(self, indices: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """Two numbers [k] that say where in the picture tokens [k] lie."""
        raise NotImplementedError

    def moves(self, numbers: Tensor) -> Tensor:
        """How far from the picture's corner [3, k] tokens with these numbers [k, 2] lie."""
        raise NotImplementedError

    def whole_positions(self, tokens: list[int], features: list[Any]) -> tuple[Tensor, int]:
        """Positions [3, L] of a prompt without pruning, and how far what follows is ahead."""
        raise NotImplementedError

    def placed(
        self, item: PrunedItem, rows: Tensor, indices: Tensor, grid: tuple[int, int] | None
    ) -> Tensor:
        """See `Pruned`: four columns more."""
        if not self._asked:
            return rows
        if not item.original:
            indices = torch.arange(len(indices), device=indices.device)
        digits = [
            digit
            for number in self.numbers(indices, grid)
            for digit in (number // _BASE, number % _BASE)
        ]
        return torch.cat([rows, torch.stack(digits, 1).to(rows.dtype)], 1)

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
            if any(part.shape[1] > width for part in rows):
                digits = torch.cat([
                    part[:, width:] if part.shape[1] > width
                    else part.new_zeros(len(part), _DIGITS) for part in rows
                ]).long()  # fmt: skip
                numbers = digits[:, 0::2] * _BASE + digits[:, 1::2]
                moved = torch.zeros(3, len(input_ids), dtype=torch.long, device=input_ids.device)
                moved[:, is_multimodal.to(moved.device)] = self.moves(numbers).to(moved.device)
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
        whole: list[int] = []
        kept: list[int] = []
        shifted = []
        done = 0
        for feature in sorted(mm_features, key=lambda f: f.mm_position.offset):
            place = feature.mm_position
            text = input_tokens[done : place.offset]
            kept += range(len(whole), len(whole) + len(text))
            whole += text
            tokens = input_tokens[place.offset : place.offset + place.length]
            done, first = place.offset + place.length, len(whole)
            here = list(range(len(tokens)))
            if KEY in feature.data:
                item = PrunedItem.from_tensor(feature.data[KEY].data)
                mask = place.is_embed
                lead = 0 if mask is None else int(mask.nonzero()[0])  # marks of a picture
                dropped = (item.total if item.original else item.count) - item.count
                here[lead : lead + item.count] = [lead] * item.count
                here[lead + item.count :] = [i + dropped for i in here[lead + item.count :]]
                tokens = [*tokens[:lead], *[tokens[lead]] * dropped, *tokens[lead:]]
            kept += [first + i for i in here]
            whole += tokens
            place = replace(place, offset=first, length=len(tokens), is_embed=None)
            shifted.append(replace(feature, mm_position=place))
        kept += range(len(whole), len(whole) + len(input_tokens) - done)
        whole += input_tokens[done:]
        positions, ahead = self.whole_positions(whole, shifted)
        return positions[:, kept], ahead + len(whole) - len(input_tokens)


class OnLine(Placed):
    """Mixin of a model with one position a token.

    The runner asks it too where the server's start said so, see `config`.
    """

    def numbers(self, indices: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """See `Placed`: the place in the picture's row of tokens."""
        return indices, torch.zeros_like(indices)

    def moves(self, numbers: Tensor) -> Tensor:
        """See `Placed`."""
        return numbers[:, 0].expand(3, -1)

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

    flat = "pixel_values"

    def counts(self, kwargs: Any) -> list[int]:
        """See `Pruned`: patches."""
        patches: list[int] = kwargs["image_grid_thw"].prod(-1).tolist()
        return patches

    def numbers(self, indices: Tensor, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """See `Placed`: row and column."""
        assert grid is not None
        return indices // grid[1], indices % grid[1]

    def moves(self, numbers: Tensor) -> Tensor:
        """See `Placed`: no time passes within a picture."""
        rows, columns = numbers.unbind(1)
        return torch.stack([torch.zeros_like(rows), rows, columns])

    def whole_positions(self, tokens: list[int], features: list[Any]) -> tuple[Tensor, int]:
        """See `Placed`: the stock model's."""
        # Past our own, which asks for these.
        positions, ahead = super(Placed, self).get_mrope_input_positions(  # type: ignore[misc]
            tokens, features
        )
        return positions, int(ahead)
