"""The front end's part: fewer placeholders for pictures and videos, and the setting with them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalBatchedField, MultiModalFieldElem
from vllm.multimodal.parse import ImageProcessorItems, VideoProcessorItems
from vllm.multimodal.processing import PromptUpdateDetails
from vllm.multimodal.processing.context import InputProcessingContext

from sparevlm.serving import metrics
from sparevlm.serving.config import positions_of, settings_for
from sparevlm.serving.item import PrunedItem, runs_of
from sparevlm.serving.joint import Seen, shortened, together
from sparevlm.serving.question import question_in
from sparevlm.serving.settings import KEY, Settings
from sparevlm.serving.videos import check_number, check_sizes, frames_in

if TYPE_CHECKING:
    from vllm.multimodal.processing.inputs import ProcessorInputs


@dataclass
class PrunedContent(PromptUpdateDetails):
    """What a picture or video puts into the prompt, and what it was shortened from."""

    item: PrunedItem | None = None


class PruningContext(InputProcessingContext):
    """A context whose Hugging Face processor never sees our settings."""

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, object], **options: Any) -> dict[str, Any]:
        """See `InputProcessingContext`."""
        merged: dict[str, Any] = super().get_merged_mm_kwargs(kwargs, **options)
        merged.pop(KEY, None)
        return merged


class PruningInfo:
    """Mixin of a family's `ProcessingInfo`."""

    # How many tokens of a video are separators.
    video_separators: int = 0

    def __init__(self, ctx: InputProcessingContext) -> None:
        super().__init__(PruningContext(ctx.model_config, ctx.tokenizer))  # type: ignore[call-arg]

    def separators(self, width: int, height: int) -> int:
        """How many tokens of a picture of this size are separators, which never stay."""
        return 0

    def parse_mm_data(self, mm_data: Mapping[str, Any], **options: Any) -> Any:
        """See `BaseProcessingInfo`."""
        check_sizes(mm_data)
        return super().parse_mm_data(mm_data, **options)  # type: ignore[misc]


class PruningProcessor:
    """Mixin of a family's processor: what it says of a picture, shortened to what will be kept."""

    info: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        metrics.register()
        self._last = threading.local()  # what the prompt that is at work was shortened from

    def get_dummy_inputs(self, *args: Any, **kwargs: Any) -> ProcessorInputs:
        """See `BaseMultiModalProcessor`; unpruned, which is the most that a request can need."""
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        return _with(inputs, {"keep": 1.0})

    def apply(self, inputs: ProcessorInputs, timing_ctx: Any) -> Any:
        """See `BaseMultiModalProcessor`.

        The setting that holds becomes part of the request's own, and so of every cache's key.
        """
        config = self.info.ctx.model_config
        try:
            settings = settings_for(config, inputs.hf_processor_mm_kwargs)
        except ValueError as error:
            raise VLLMValidationError(str(error), parameter=KEY) from error
        media = inputs.mm_data_items
        if settings is None or not _prunable(media):
            return super().apply(_with(inputs, None), timing_ctx)  # type: ignore[misc]
        check_number(media.get("video"), config)
        if settings.guided:
            asked = question_in(self.info.get_tokenizer(), config.hf_config, inputs.prompt)
            settings = replace(settings, question=asked)
        best, *others = positions_of(config)
        wanted = settings.method.positions
        settings = settings.placed(best if wanted == "auto" else wanted)
        apply = self._apply
        if settings.method.per == "prompt" and sum(len(items) for items in media.values()) > 1:
            _check_joint(media)
            apply = self._apply_jointly
        applied = apply(inputs, settings, timing_ctx)
        if others and settings.method.positions == "original" and self._too_long(applied):
            if wanted == "original":
                raise VLLMValidationError(
                    f"{KEY}: the prompt and its pictures have more tokens than the model has "
                    'positions: leave positions="original" out, or give fewer pictures or frames',
                    parameter=KEY,
                )
            applied = apply(inputs, settings.placed("compact"), timing_ctx)
        for item in self._last.items:
            metrics.count_tokens(item.settings.method.name, item.total, item.kept)
        return applied

    def _apply(self, inputs: ProcessorInputs, settings: Settings, timing_ctx: Any) -> Any:
        return super().apply(  # type: ignore[misc]
            _with(inputs, settings.as_dict()), timing_ctx
        )

    def _apply_jointly(self, inputs: ProcessorInputs, settings: Settings, timing_ctx: Any) -> Any:
        """All pictures and videos as one, of which vLLM's caches know no parts."""
        alone = replace(_with(inputs, None), cache=None)
        applied = super().apply(alone, timing_ctx)  # type: ignore[misc]
        seen = []
        for modality, items in inputs.mm_data_items.items():
            for i, own in enumerate(applied["mm_kwargs"][modality]):
                place = applied["mm_placeholders"][modality][i]
                tokens = applied["prompt_token_ids"][place.offset : place.offset + place.length]
                visual = [True] * len(tokens) if place.is_embed is None else place.is_embed.tolist()
                runs = runs_of(tokens, visual, frames_in(own))
                separators = self._separators(items, i)
                seen.append(Seen(modality, i, place.offset, runs, separators))
        joined, item = together(applied, seen, settings, inputs.cache)
        self._last.items = [item]
        return joined

    def _too_long(self, prompt: Any) -> bool:
        """Whether the prompt would not fit the model's positions without pruning."""
        text = self.info.get_hf_config().get_text_config()
        dropped = sum(item.total - item.kept for item in self._last.items)
        return len(prompt["prompt_token_ids"]) + dropped > int(text.max_position_embeddings)

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        updated = super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]
        contents = [a[0].content for own in mm_res.prompt_updates.values() for a in own]
        self._last.items = [c.item for c in contents if isinstance(c, PrunedContent)]
        return updated

    def _get_mm_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Any:
        updates = super()._get_mm_prompt_updates(  # type: ignore[misc]
            mm_items, hf_processor_mm_kwargs, out_mm_kwargs
        )
        asked = hf_processor_mm_kwargs.get(KEY)
        if asked is None:
            return updates
        settings, pruned = Settings.from_dict(asked), dict(updates)
        for modality in _prunable(mm_items):
            pruned[modality] = []
            for i, alternatives in enumerate(updates[modality]):
                given = out_mm_kwargs[modality][i]
                content = max((u.content for u in alternatives), key=lambda c: len(c.full))
                runs = runs_of(content.full, _visual(content), frames_in(given))
                item = shortened(settings, modality, runs, self._separators(mm_items[modality], i))
                short = PrunedContent(item.shortened(), item=item)
                pruned[modality].append([u.with_content(short) for u in alternatives])
                given[KEY] = MultiModalFieldElem(
                    data=item.to_tensor(), field=MultiModalBatchedField(keep_on_cpu=True)
                )
        return pruned

    def _separators(self, items: Any, place: int) -> int:
        """How many tokens of a picture or video are separators."""
        if isinstance(items, ImageProcessorItems):
            size = items.get_image_size(place)
            return int(self.info.separators(size.width, size.height))
        return int(self.info.video_separators)


def _prunable(items: Mapping[str, Any]) -> list[str]:
    """Kinds of what comes as pixels; embeddings made before are not pruned."""
    return [
        name
        for name in ("image", "video")
        if isinstance(items.get(name), ImageProcessorItems | VideoProcessorItems)
    ]


def _visual(content: PromptUpdateDetails) -> list[bool]:
    """Where in the content embeddings go."""
    if content.is_embed is None:
        return [True] * len(content.full)
    mask: list[bool] = content.is_embed(content.full).tolist()
    return mask


def _check_joint(items: Mapping[str, Any]) -> None:
    """Refuse what cannot be chosen among jointly."""
    whole = {name: own.get_all() for name, own in items.items() if name in _prunable(items)}
    if len(whole) < len(items):
        raise VLLMValidationError(
            f'{KEY}: per="prompt" cannot choose among embeddings that were made before: use '
            'per="image", which leaves them as they are',
            parameter=KEY,
        )
    if any(one is None for own in whole.values() for one in own):
        raise VLLMValidationError(
            f'{KEY}: per="prompt" chooses among all pictures and videos of a prompt, and so needs '
            "each of them: send them with their UUIDs",
            parameter=KEY,
        )


def _with(inputs: ProcessorInputs, settings: Mapping[str, Any] | None) -> ProcessorInputs:
    rest = {k: v for k, v in inputs.hf_processor_mm_kwargs.items() if k != KEY}
    return replace(inputs, hf_processor_mm_kwargs=rest | ({KEY: settings} if settings else {}))
