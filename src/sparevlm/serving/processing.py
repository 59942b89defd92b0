"""The front end's part: fewer placeholders for each picture, and the setting that goes with it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vllm.exceptions import VLLMValidationError
from vllm.multimodal.inputs import MultiModalBatchedField, MultiModalFieldElem
from vllm.multimodal.parse import ImageProcessorItems
from vllm.multimodal.processing import PromptUpdateDetails
from vllm.multimodal.processing.context import InputProcessingContext

from sparevlm.serving import metrics
from sparevlm.serving.config import positions_of, settings_for
from sparevlm.serving.item import PrunedItem
from sparevlm.serving.question import question_in
from sparevlm.serving.settings import KEY, Settings

if TYPE_CHECKING:
    from vllm.multimodal.processing.inputs import ProcessorInputs


@dataclass
class PrunedContent(PromptUpdateDetails):
    """What a picture puts into the prompt, and what it was shortened from."""

    method: str = ""
    total: int = 0
    kept: int = 0


class PruningContext(InputProcessingContext):
    """A context whose Hugging Face processor never sees our settings."""

    def get_merged_mm_kwargs(self, kwargs: Mapping[str, object], **options: Any) -> dict[str, Any]:
        """See `InputProcessingContext`."""
        merged: dict[str, Any] = super().get_merged_mm_kwargs(kwargs, **options)
        merged.pop(KEY, None)
        return merged


class PruningInfo:
    """Mixin of a family's `ProcessingInfo`."""

    def __init__(self, ctx: InputProcessingContext) -> None:
        super().__init__(PruningContext(ctx.model_config, ctx.tokenizer))  # type: ignore[call-arg]

    def separators(self, width: int, height: int) -> int:
        """How many tokens of a picture of this size are separators, which never stay."""
        return 0


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
        if settings is None or "image" not in inputs.mm_data_items:
            return super().apply(_with(inputs, None), timing_ctx)  # type: ignore[misc]
        if settings.guided:
            asked = question_in(self.info.get_tokenizer(), config.hf_config, inputs.prompt)
            settings = replace(settings, question=asked)
        best, *others = positions_of(config)
        wanted = settings.method.positions
        settings = settings.placed(best if wanted == "auto" else wanted)
        applied = self._apply(inputs, settings, timing_ctx)
        if others and settings.method.positions == "original" and self._too_long(applied):
            if wanted == "original":
                raise VLLMValidationError(
                    f"{KEY}: the prompt and its pictures have more tokens than the model has "
                    'positions: leave positions="original" out, or give fewer pictures',
                    parameter=KEY,
                )
            applied = self._apply(inputs, settings.placed("compact"), timing_ctx)
        for content in self._last.pruned:
            metrics.count_tokens(content.method, content.total, content.kept)
        return applied

    def _apply(self, inputs: ProcessorInputs, settings: Settings, timing_ctx: Any) -> Any:
        return super().apply(  # type: ignore[misc]
            _with(inputs, settings.as_dict()), timing_ctx
        )

    def _too_long(self, prompt: Any) -> bool:
        """Whether the prompt would not fit the model's positions without pruning."""
        text = self.info.get_hf_config().get_text_config()
        whole = len(prompt["prompt_token_ids"]) + sum(c.total - c.kept for c in self._last.pruned)
        return whole > int(text.max_position_embeddings)

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        updated = super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]
        contents = [a[0].content for a in mm_res.prompt_updates.get("image", ())]
        pruned = [content for content in contents if isinstance(content, PrunedContent)]
        self._last.pruned = pruned
        return updated

    def _get_mm_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Any:
        updates = super()._get_mm_prompt_updates(  # type: ignore[misc]
            mm_items, hf_processor_mm_kwargs, out_mm_kwargs
        )
        asked, images = hf_processor_mm_kwargs.get(KEY), mm_items.get("image")
        if asked is None or not isinstance(images, ImageProcessorItems):
            return updates
        settings = Settings.from_dict(asked)
        pruned = []
        for i, alternatives in enumerate(updates["image"]):
            size = images.get_image_size(i)
            total = max(len(_placeholders(update.content)) for update in alternatives)
            available = total - self.info.separators(size.width, size.height)
            item = PrunedItem(settings.keeping(settings.tokens(available)), total)
            pruned.append([u.with_content(_shortened(u.content, item)) for u in alternatives])
            out_mm_kwargs["image"][i][KEY] = MultiModalFieldElem(
                data=item.to_tensor(), field=MultiModalBatchedField(keep_on_cpu=True)
            )
        return {**updates, "image": pruned}


def _with(inputs: ProcessorInputs, settings: Mapping[str, Any] | None) -> ProcessorInputs:
    rest = {k: v for k, v in inputs.hf_processor_mm_kwargs.items() if k != KEY}
    return replace(inputs, hf_processor_mm_kwargs=rest | ({KEY: settings} if settings else {}))


def _placeholders(content: PromptUpdateDetails) -> list[int]:
    """Where in the content embeddings go."""
    if content.is_embed is None:
        return list(range(len(content.full)))
    columns: list[int] = content.is_embed(content.full).nonzero()[:, 0].tolist()
    return columns


def _shortened(content: PromptUpdateDetails, item: PrunedItem) -> PrunedContent:
    dropped = set(_placeholders(content)[item.count :])
    full = [token for i, token in enumerate(content.full) if i not in dropped]
    method = item.settings.method.name
    return PrunedContent(full, content.is_embed, method, item.total, item.count)
