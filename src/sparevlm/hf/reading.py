"""Reading a call: its arguments checked, and its prompt as a record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparevlm.families import Family
from sparevlm.hf import stock
from sparevlm.hf.media import MODALITIES, VIDEO, Modality, placeholder_ids, token_types
from sparevlm.hf.turns import Prefix, cached_prefix, recall


@dataclass(frozen=True, eq=False)
class Prompt:
    """What the prompts of a call say; worked out on the CPU, where looking at it waits for nothing.

    Attributes
    ----------
    ids : Tensor [B, L], int64
        As the user gave them.
    mask : Tensor [B, M] or None
        As the user gave it; longer than `ids` where these are new tokens only.
    types : Tensor [B, L], int64
        What each token stands for: 0 a word, else the code of a `Modality`.
    placeholders : tuple of int
        Ids of placeholders.
    prefix : Prefix or None
        What a cache holds of it.
    """

    ids: Tensor
    mask: Tensor | None
    types: Tensor
    placeholders: tuple[int, ...]
    prefix: Prefix | None

    @property
    def start(self) -> int:
        """The first column that is not cached."""
        return self.prefix.columns if self.prefix else 0

    @property
    def goes_on(self) -> bool:
        """Whether the cache holds a prompt that was pruned."""
        return self.prefix is not None and bool(self.prefix.dropped.any())

    def of(self, modality: Modality) -> Tensor:
        """Placeholders of one kind of input: [B, L], bool."""
        return self.types == modality.code


def named(model: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are something, a cache under the name that this transformers has for it.

    Raises
    ------
    ValueError
        If there are two caches, or it is no cache, or one of another model.
    """
    cache = stock.cache_of(kwargs)
    arguments = {name: value for name, value in kwargs.items() if value is not None}
    if stock.cached_tokens(cache):
        stock.check_cache(model, cache)
    return stock.with_cache(type(model).forward, arguments, cache)


def media_of(family: Family, kwargs: dict[str, Any]) -> list[Modality]:
    """Kinds of visual input among the arguments of a call.

    Raises
    ------
    ValueError
        If the family does not take them, or something else that was given forbids them.
    """
    if "prefill_chunk_size" in kwargs:
        raise ValueError("a pruned prompt cannot be prefilled in chunks: remove prefill_chunk_size")
    media = [modality for modality in MODALITIES if modality.pixels in kwargs]
    if not media:
        return media
    if VIDEO in media and family.video in ("no", "pictures"):
        how = (
            "give some of its frames as pictures"
            if family.video == "no"
            else "it takes a video as pictures, one a frame: pass what its processor returns"
        )
        raise ValueError(f"{family.name} takes no {VIDEO.pixels}: {how}")
    if len(media) > 1 and family.video == "marks":
        raise ValueError(
            f"{family.name} in transformers takes pictures or videos in one call, not both: "
            "give the frames of the video as pictures"
        )
    if "inputs_embeds" in kwargs:
        raise ValueError("inputs_embeds and pictures were both given: pass input_ids with pictures")
    if stock.has_features(kwargs):
        raise ValueError("pictures and mm_encoder_outputs were both given: pass one of them")
    if kwargs.get("input_ids") is None:
        raise ValueError("pictures were given without input_ids: pass the processor's whole output")
    mask = kwargs.get("attention_mask")
    if _odd(mask):
        shape = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"attention_mask must be [B, L], not {shape}: pass the processor's mask")
    return media


def read_prompt(
    model: Any, family: Family, kwargs: dict[str, Any], *, whole: bool
) -> Prompt | None:
    """The prompt of a call; None where there is nothing that could be pruned.

    `whole`: ids are the whole conversation even where a cache holds its beginning, as in
    `generate`.

    Raises
    ------
    ValueError
        If the call cannot go on from its cache.
    """
    ids: Tensor | None = kwargs.get("input_ids")
    mask = kwargs.get("attention_mask")
    cache = stock.cache_of(kwargs)
    if ids is None or _odd(mask):
        if recall(cache) is not None:
            raise ValueError(
                "the cache holds a pruned prompt: go on from it with input_ids and a mask [B, L]"
            )
        return None
    if stock.has_features(kwargs):
        return None
    placeholders = placeholder_ids(family, model)
    on_host = ids.cpu()
    return Prompt(
        ids=on_host,
        mask=None if mask is None else mask.cpu(),
        types=token_types(family, model, on_host),
        placeholders=placeholders,
        prefix=cached_prefix(cache, ids, mask, placeholders, whole=whole),
    )


def _odd(mask: Any) -> bool:
    return mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2)


def pad_id(model: Any, placeholders: tuple[int, ...]) -> int:
    """A token id that pads and is no placeholder."""
    for config in (model.config, model.config.get_text_config()):
        pad = getattr(config, "pad_token_id", None)
        if isinstance(pad, int) and pad >= 0 and pad not in placeholders:
            return pad
    return next(i for i in range(len(placeholders) + 1) if i not in placeholders)


def generation_setting(model: Any, kwargs: dict[str, Any], name: str) -> Any:
    """A setting of a `generate` call as stock finds it: argument, given config, model's config."""
    if kwargs.get(name) is not None:
        return kwargs[name]
    value = getattr(kwargs.get("generation_config"), name, None)
    return getattr(model.generation_config, name, None) if value is None else value


def uses_cache(model: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a `generate` call with these arguments caches keys and values."""
    return generation_setting(model, kwargs, "use_cache") is not False
