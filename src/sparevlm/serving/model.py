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
from sparevlm.tokens import Reduction, VisualTokens, check_reduction

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
            kept += self._keep(items[first:last], encoded, part)
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
    def _keep(self, items: list[PrunedItem], encoded: Any, part: Mapping[str, Any]) -> list[Tensor]:
        """What `placed` makes of the kept rows of each picture; those alike are chosen together."""
        began = time.perf_counter()
        grids, tokens = [], []
        for place, (item, features) in enumerate(zip(items, encoded, strict=True)):
            settings, plain = item.settings, self.plain(features)
            grids.append(self.grid(features, self.arguments(part, place, place + 1)))
            query = self._questions.query(settings, plain, place) if settings.guided else None
            tokens.append(VisualTokens(plain, grids[-1], self.candidates(features), query))
        reductions = _together(items, tokens)
        kept = []
        for item, features, seen, reduction, grid in zip(
            items, encoded, tokens, reductions, grids, strict=True
        ):
            if len(reduction.indices) != item.count or len(features) != item.total:
                raise RuntimeError(
                    f"sparevlm kept {len(reduction.indices)} of {len(features)} tokens where the "
                    f"prompt has room for {item.count} of {item.total}: please report the model "
                    "and the size of the picture"
                )
            rows = features[reduction.indices]
            if reduction.features is not None:
                rows = torch.cat([reduction.features, rows[:, seen.features.shape[1] :]], 1)
            kept.append(self.placed(item, rows, reduction.indices, grid))
        seconds = (time.perf_counter() - began) / max(len(items), 1)
        for item in items:
            metrics.count_seconds("selection", item.settings.method.name, seconds)
        return kept


def _together(items: list[PrunedItem], tokens: list[VisualTokens]) -> list[Reduction]:
    """What each item's method keeps of its picture: pictures of one method in one call."""
    reductions: dict[int, Reduction] = {}
    methods = [item.settings.method for item in items]
    for method in dict.fromkeys(methods):
        mine = [i for i, other in enumerate(methods) if other == method]
        try:
            found = method.reduce_together([tokens[i] for i in mine])
            for i, reduction in zip(mine, found, strict=True):
                check_reduction(reduction, tokens[i], type(method).__name__)
            reductions |= dict(zip(mine, found, strict=True))
        except ValueError:  # of one of them: the others are as they would be
            reductions |= {i: _reduced(method, tokens[i], items[i].count) for i in mine}
    return [reductions[i] for i in range(len(tokens))]


def _reduced(method: PruningMethod, tokens: VisualTokens, count: int) -> Reduction:
    """What the method keeps; a NaN, or a method that breaks its contract, ends no server."""
    try:
        reduction = method.reduce(tokens)
        check_reduction(reduction, tokens, type(method).__name__)
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
