"""The worker's part: encode pictures a few at a time, and keep of each what its item says."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sparevlm.families import FAMILIES, patch_grid
from sparevlm.methods import PruningMethod
from sparevlm.serving import metrics
from sparevlm.serving.item import PrunedItem
from sparevlm.serving.question import Questions
from sparevlm.serving.settings import KEY
from sparevlm.tokens import Reduction, VisualTokens, check_form, check_indices

log = logging.getLogger("vllm.sparevlm")


class Pruned:
    """Mixin of a vLLM model: `embed_multimodal` gives the kept rows of each picture.

    A class says how its arguments fall apart into pictures (`counts`, `flat`); which rows are
    separators, and what grid the others form, the record of its family does.
    """

    # Argument whose rows several pictures share, beside those with one row a picture.
    flat: str = ""
    # Whether a picture is one grid of patches, each of them a token.
    one_grid: bool = False

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._room = vllm_config.scheduler_config.max_num_encoder_input_tokens
        self._family = FAMILIES[vllm_config.model_config.hf_config.model_type]
        self._questions = Questions(self, vllm_config.model_config)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """See `SupportsMultiModal`: rows [k, D], and what `placed` puts behind them."""
        data = kwargs.pop(KEY, None)
        if data is None:
            encoded = self._encode("none", kwargs)
            metrics.write()
            return encoded
        items = [PrunedItem.from_tensor(row) for row in data]
        kept = []
        for first, last in batches([item.total for item in items], self._room):
            part = self.arguments(kwargs, first, last)
            with self._questions.listening(any(i.settings.guided for i in items[first:last])):
                encoded = self._encode(items[first].settings.method.name, part)
            for place, features in enumerate(encoded):
                arguments = self.arguments(part, place, place + 1)
                kept.append(self._keep(items[first + place], features, arguments, place))
        metrics.write()
        return kept

    def _encode(self, method: str, kwargs: dict[str, Any]) -> Any:
        began = time.perf_counter()
        encoded = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        metrics.count_seconds("encoder", method, time.perf_counter() - began)
        return encoded

    def arguments(self, kwargs: Mapping[str, Any], first: int, last: int) -> dict[str, Any]:
        """The encoder's arguments for pictures `first` to `last` alone."""
        arguments = {}
        counts = self.counts(kwargs) if self.flat else []
        for name, value in kwargs.items():
            if self.flat and name == self.flat:
                begin = sum(counts[:first])
                arguments[name] = value[begin : begin + sum(counts[first:last])]
            elif isinstance(value, Tensor) and value.ndim == 0:
                arguments[name] = value  # shared by all
            else:
                arguments[name] = value[first:last]
        return arguments

    def counts(self, kwargs: Mapping[str, Any]) -> list[int]:
        """Rows of the `flat` argument that each picture takes."""
        raise NotImplementedError

    def candidates(self, features: Tensor) -> Tensor | None:
        """False [N] for separators among the rows of a picture; None: there are none."""
        if not self._family.newline:
            return None
        newline: Tensor = self.image_newline  # type: ignore[attr-defined]
        return (features != newline.to(features.dtype)).any(-1)

    def grid(self, features: Tensor, arguments: Mapping[str, Any]) -> tuple[int, int] | None:
        """Rows and columns that the tokens of a picture form."""
        sizes = arguments["image_grid_thw"][0].tolist() if self._family.grids else None
        return patch_grid(self._family, len(features), sizes, lines=self._family.newline)

    def placed(
        self, item: PrunedItem, rows: Tensor, indices: Tensor, grid: tuple[int, int] | None
    ) -> Tensor:
        """Kept rows [k, D] with what says where in the picture they lie."""
        return rows

    def plain(self, features: Tensor) -> Tensor:
        """The rows that the language model is given first, without those for deeper layers."""
        return features

    @torch.no_grad()
    def _keep(
        self, item: PrunedItem, features: Tensor, arguments: Mapping[str, Any], place: int
    ) -> Tensor:
        began = time.perf_counter()
        settings, grid, plain = item.settings, self.grid(features, arguments), self.plain(features)
        query = self._questions.query(settings, plain, place) if settings.guided else None
        tokens = VisualTokens(plain, grid, self.candidates(features), query)
        reduction = _reduced(settings.method, tokens, item.count)
        if len(reduction.indices) != item.count or len(features) != item.total:
            raise RuntimeError(
                f"sparevlm kept {len(reduction.indices)} of {len(features)} tokens where the "
                f"prompt has room for {item.count} of {item.total}: please report the model and "
                "the size of the picture"
            )
        rows = features[reduction.indices]
        if reduction.features is not None:
            rows = torch.cat([reduction.features, rows[:, plain.shape[1] :]], 1)
        metrics.count_seconds("selection", settings.method.name, time.perf_counter() - began)
        return self.placed(item, rows, reduction.indices, grid)


def _reduced(method: PruningMethod, tokens: VisualTokens, count: int) -> Reduction:
    """What the method keeps; a NaN, or a method that breaks its contract, ends no server."""
    who = type(method).__name__
    try:
        reduction = method.reduce(tokens)
        check_form(reduction, tokens, who)
        check_indices(reduction.indices, tokens, who)
        return reduction
    except ValueError as error:
        log.warning("evenly spaced tokens were kept of a picture: %s", error)
        candidates = tokens.candidate_indices()
        spaced = (
            torch.linspace(0, len(candidates) - 1, count, device=candidates.device).round().long()
        )
        return Reduction(candidates[spaced])


def batches(sizes: list[int], room: int) -> Iterator[tuple[int, int]]:
    """Runs of pictures, first to last, whose tokens fit into `room`; at least one picture each.

    The scheduler counts kept tokens alone, and sends many more pictures at once than the encoder's
    memory was measured with.
    """
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > room:
            yield first, i
            first, total = i, 0
        total += size
    yield first, len(sizes)
