"""The worker's part: encode pictures and frames a few at a time, and keep what items say."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from sparevlm.families import FAMILIES, patch_grid
from sparevlm.methods import PruningMethod
from sparevlm.selection.compiled import compiled
from sparevlm.serving import metrics
from sparevlm.serving.arguments import grids_of, joined
from sparevlm.serving.item import PrunedItem, Run
from sparevlm.serving.question import Questions
from sparevlm.serving.settings import KEY
from sparevlm.serving.units import Given, Unit, grouped, leave, parts_of, units_of
from sparevlm.tokens import Reduction, VisualTokens, check_reduction
from sparevlm.tokens import joined as joined_tokens

log = logging.getLogger("vllm.sparevlm")


class Pruned:
    """Mixin of a vLLM model: `embed_multimodal` gives the kept rows of each picture and video.

    Which rows are separators, and what grid the others form, the record of its family says.
    """

    # Whether a picture is one grid of patches, each of them a token.
    one_grid: bool = False

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self._room = vllm_config.scheduler_config.max_num_encoder_input_tokens
        self._family = FAMILIES[vllm_config.model_config.hf_config.model_type]
        self._questions = Questions(self, vllm_config.model_config)
        if torch.get_default_device().type == "cpu":
            compiled()  # or the first request would wait for it

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """See `SupportsMultiModal`: rows [k, D], and what `placed` puts behind them."""
        data = kwargs.pop(KEY, None)
        if data is None:
            encoded = self._stock("none", kwargs)
            metrics.write()
            return encoded
        items = [PrunedItem.from_tensor(row) for row in data]
        parts = [parts_of(item, kwargs, place) for place, item in enumerate(items)]
        units = [
            unit for item, own in zip(items, parts, strict=True) for unit in units_of(item, own)
        ]
        done: list[Unit] = []
        for first, last in batches([unit.size for unit in units], self._room):
            done += self._seen(units[first:last])
            groups = [group for group in grouped(done) if group[-1].last]
            self._choose(groups)
            done = done[sum(len(group) for group in groups) :]
        metrics.write()
        return [self._filled(item, own) for item, own in zip(items, parts, strict=True)]

    def _stock(self, method: str, arguments: dict[str, Any]) -> Any:
        began = time.perf_counter()
        encoded = super().embed_multimodal(**arguments)  # type: ignore[misc]
        metrics.count_seconds("encoder", method, time.perf_counter() - began)
        return encoded

    def _seen(self, units: list[Unit]) -> list[Unit]:
        """The same, encoded together."""
        guided = any(unit.item.settings.guided for unit in units)
        for _, alike in groupby(units, lambda unit: unit.part.modality):
            together = list(alike)
            with self._questions.listening(guided):
                features = self._features(together)
            for place, (unit, rows) in enumerate(zip(together, features, strict=True)):
                settings, plain = unit.item.settings, self.plain(rows)
                query = self._questions.query(settings, plain, place) if settings.guided else None
                ends = unit.ends or unit.part.modality == "image"  # no other frame has separators
                candidates = self.candidates(rows) if ends else None
                unit.features = rows
                unit.tokens = VisualTokens(plain, self.grid(unit), candidates, query)
        return units

    def _features(self, units: list[Unit]) -> list[Tensor]:
        """What the encoder gives for each of some pictures, or of some frames."""
        runs = [list(run) for _, run in groupby(units, lambda unit: id(unit.part))]
        given = [run[0].part.frames(run[0].frame, run[-1].frame + 1) for run in runs]
        encoded = self._stock(units[0].item.settings.method.name, joined(given))
        features: list[Tensor] = []
        for run, rows in zip(runs, encoded, strict=True):
            rows = rows.flatten(0, -2)  # LLaVA-OneVision keeps an axis for the video
            sizes = [unit.size for unit in run]
            # It ends each video with a separator, and so each part of one.
            ends = self._family.newline and not run[-1].ends and run[0].part.modality == "video"
            if len(rows) != sum(sizes) + ends:
                item = run[0].item
                raise RuntimeError(
                    f"sparevlm got a picture or video of {len(rows)} tokens where the prompt has "
                    f"room for {item.kept} of {sum(sizes) + ends}: please report the model and the "
                    "size of the picture"
                )
            features += rows[: sum(sizes)].split(sizes)
        return features

    def candidates(self, features: Tensor) -> Tensor | None:
        """False [N] for separators among the rows of a picture; None: there are none."""
        if not self._family.newline:
            return None
        newline: Tensor = self.image_newline  # type: ignore[attr-defined]
        return (features != newline.to(features.dtype)).any(-1)

    def grid(self, unit: Unit) -> tuple[int, int] | None:
        """Rows and columns that the tokens of a picture or frame form."""
        grids, lines = grids_of(unit.part.arguments), self._family.newline
        sizes = grids[0].tolist() if self._family.grids and grids is not None else None
        lines = lines and unit.part.modality == "image"
        return patch_grid(self._family, unit.size, sizes, lines=lines)

    def placed(self, item: PrunedItem, parts: list[Given], rows: Tensor, places: Tensor) -> Tensor:
        """Rows [k, D] with what says where in the whole item [k] they lie."""
        return rows

    def plain(self, features: Tensor) -> Tensor:
        """The rows that the language model is given first, without those for deeper layers."""
        return features

    @torch.no_grad()
    def _choose(self, groups: list[list[Unit]]) -> None:
        """Leave of each group of units what stays; groups alike are chosen from together."""
        began = time.perf_counter()
        reductions = _together(
            [group[0].item for group in groups], [_joined_tokens(group) for group in groups]
        )
        for group, reduction in zip(groups, reductions, strict=True):
            item = group[0].item
            if len(reduction.indices) != item.count:
                raise RuntimeError(
                    f"sparevlm kept {len(reduction.indices)} of {item.total} tokens where the "
                    f"prompt has room for {item.count}: please report the model and the size of "
                    "the picture"
                )
            leave(group, reduction)
        seconds = (time.perf_counter() - began) / max(len(groups), 1)
        for group in groups:
            metrics.count_seconds("selection", group[0].item.settings.method.name, seconds)

    @torch.no_grad()
    def _filled(self, item: PrunedItem, parts: list[Given]) -> Tensor:
        """What `placed` makes of all of an item: kept rows, and words between them."""
        units = iter([unit for part in parts for unit in part.units])
        rows, places = [], []
        like = parts[0].units[0].features
        assert like is not None
        words = iter(self._words([run for run in item.runs if not run.visual], like))
        for run, start in zip(item.runs, item.starts, strict=False):
            if run.visual:
                unit = next(units)
                assert unit.features is not None and unit.indices is not None
                rows.append(unit.features)
                places.append(start + unit.indices)
            else:
                rows.append(next(words))
                places.append(torch.arange(start, start + run.length, device=like.device))
        return self.placed(item, parts, torch.cat(rows), torch.cat(places))

    def _words(self, runs: list[Run], like: Tensor) -> list[Tensor]:
        """Embedded words of each run, as wide as features; deeper layers add nothing to them."""
        if not runs:
            return []
        ids = torch.tensor([run.token for run in runs for _ in range(run.length)]).to(like.device)
        words = self.get_language_model().embed_input_ids(ids)  # type: ignore[attr-defined]
        rows = like.new_zeros(len(ids), like.shape[1])
        rows[:, : words.shape[1]] = words.to(like.dtype)
        return list(rows.split([run.length for run in runs]))


def _joined_tokens(group: list[Unit]) -> VisualTokens:
    """The tokens of a group, with the question beside them."""
    tokens = [unit.tokens for unit in group if unit.tokens is not None]
    queries = [seen.query for seen in tokens if seen.query is not None]
    if len(tokens) == 1 or len(queries) < len(tokens):
        return joined_tokens(tokens)
    query = replace(queries[0], patches=torch.cat([query.patches for query in queries]))
    return replace(joined_tokens(tokens), query=query)


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
    """Runs of pictures or frames, first to last, whose tokens fit into `room`; at least one each.

    The scheduler counts kept tokens alone, and sends many more of them at once than the encoder's
    memory was measured with.
    """
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > room:
            yield first, i
            first, total = i, 0
        total += size
    yield first, len(sizes)
