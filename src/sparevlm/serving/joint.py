"""All pictures and videos of a prompt as one, where one budget is for all of them.

vLLM encodes and caches pictures one by one, and must know how many tokens each takes before. To be
chosen among jointly, they come as one item that reaches from the first to the last, with the words
between them; its identity is made of all of theirs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from vllm.multimodal.inputs import (
    MultiModalBatchedField,
    MultiModalFieldElem,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    MultiModalSharedField,
    PlaceholderRange,
)

from sparevlm.serving.arguments import ENTRY, ROWS, SHARED, joint_name
from sparevlm.serving.item import Part, PrunedItem, Run
from sparevlm.serving.settings import KEY, Settings
from sparevlm.serving.videos import check_budget


@dataclass(frozen=True)
class Seen:
    """A picture or video of a prompt: its kind, which one of these it is, and where it begins.

    Attributes
    ----------
    modality : str
    place, offset : int
    runs : list of Run
        What stands in its place.
    separators : int
        How many of its tokens never stay.
    """

    modality: str
    place: int
    offset: int
    runs: list[Run]
    separators: int

    @property
    def end(self) -> int:
        """The first token after it."""
        return self.offset + sum(run.length for run in self.runs)


def shortened(settings: Settings, modality: str, runs: list[Run], separators: int) -> PrunedItem:
    """A picture or video by itself.

    Raises
    ------
    VLLMValidationError
        If nothing of a frame would stay.
    """
    sizes = [run.length for run in runs if run.visual]
    sizes[-1] -= separators
    available = sum(sizes) if settings.method.per == "prompt" else min(sizes)
    if settings.method.per != "prompt" and modality == "video":
        check_budget(settings, available)
    keeping = settings.keeping(settings.tokens(available))
    return PrunedItem(keeping, tuple(runs), (Part(modality, 0, len(runs)),))


def together(
    applied: Any, seen: list[Seen], settings: Settings, cache: Any
) -> tuple[Any, PrunedItem]:
    """What vLLM made of a prompt, with one item instead of several."""
    seen = sorted(seen, key=lambda one: one.offset)
    prompt = applied["prompt_token_ids"]
    first, last = seen[0].offset, seen[-1].end
    item = _spanning(prompt, seen, settings)
    own = packed(item, [applied["mm_kwargs"][one.modality][one.place] for one in seen])
    name = identity([applied["mm_hashes"][one.modality][one.place] for one in seen], item)
    if cache is not None:
        cache.touch_sender_cache_item(name)
        try:
            own, _ = cache.get_and_update_item((own, []), name)
        finally:
            cache.release_sender_touches()
    modality = "video" if any(one.modality == "video" for one in seen) else "image"
    short = item.shortened()
    joined = applied | {
        "prompt_token_ids": [*prompt[:first], *short, *prompt[last:]],
        "mm_kwargs": MultiModalKwargsItems({modality: [own]}),
        "mm_hashes": {modality: [name]},
        "mm_placeholders": {modality: [PlaceholderRange(offset=first, length=len(short))]},
    }
    return joined, item


def _spanning(prompt: list[int], seen: list[Seen], settings: Settings) -> PrunedItem:
    """All of a prompt from its first picture or video to its last."""
    runs: list[Run] = []
    parts: list[Part] = []
    done, available = seen[0].offset, 0
    for one in seen:
        runs += [Run(token, 1, False) for token in prompt[done : one.offset]]
        parts.append(Part(one.modality, len(runs), len(runs) + len(one.runs)))
        runs += one.runs
        available += sum(run.length for run in one.runs if run.visual) - one.separators
        done = one.end
    return PrunedItem(settings.keeping(settings.tokens(available)), tuple(runs), tuple(parts))


def packed(item: PrunedItem, given: list[MultiModalKwargsItem]) -> MultiModalKwargsItem:
    """One item of several, in the order of `item.parts`."""
    fields = {KEY: _element(item.to_tensor(), on_cpu=True)}
    for place, own in enumerate(given):
        for name, element in own.items():
            if isinstance(element.field, MultiModalBatchedField):
                kind = ENTRY
            else:
                kind = SHARED if isinstance(element.field, MultiModalSharedField) else ROWS
            fields[joint_name(place, kind, name)] = _element(
                element.data, element.field.keep_on_cpu
            )
    return MultiModalKwargsItem(fields)


def identity(hashes: list[str], item: PrunedItem) -> str:
    """A hash of the pictures and videos, their order, the words between them and the setting."""
    text = "\n".join(hashes).encode() + item.to_tensor().numpy().tobytes()
    return hashlib.sha256(text).hexdigest()


def _element(data: Any, on_cpu: bool) -> MultiModalFieldElem:
    return MultiModalFieldElem(data=data, field=MultiModalBatchedField(keep_on_cpu=on_cpu))
