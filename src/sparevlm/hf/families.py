"""Facts about the model families: data, and the sentence for a model that is none of them."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Family:
    """What the mechanism must know of a family and cannot ask the model.

    Attributes
    ----------
    name : str
        As people write it.
    model_type : str
        `config.model_type` in transformers.
    classes : tuple of str
        Model classes that are supported; the first is the one with a language-model head.
    hub : tuple of str
        Checkpoints to use.
    positions : "compact" or "original"
        What positions="auto" means, as measured (docs/defaults.md).
    question : str
        Regular expression of the template's role marks; the last piece that the
        user says is the question.
    pixels : tuple of str
        Arguments that carry pictures.
    """

    name: str
    model_type: str
    classes: tuple[str, ...]
    hub: tuple[str, ...]
    positions: Literal["compact", "original"]
    question: str = r"(?i)\b(?:user|assistant|system)\s*:|\[/?INST\]"
    pixels: tuple[str, ...] = ("pixel_values",)


LLAVA = Family(
    name="LLaVA-1.5",
    model_type="llava",
    classes=("LlavaForConditionalGeneration", "LlavaModel"),
    hub=("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf"),
    positions="original",
)

FAMILIES: dict[str, Family] = {family.model_type: family for family in (LLAVA,)}


class UnsupportedModelError(ValueError):
    """The model belongs to no family that is supported; the message says why."""


def find_family(model: Any) -> Family:
    """Facts of a model's family.

    Raises
    ------
    UnsupportedModelError
        If there are none, or the installed transformers cannot take pruned features for it.
    """
    kind = type(model).__name__
    supported = ", ".join(sorted(f.classes[0] for f in FAMILIES.values()))
    config = getattr(model, "config", None)
    family = FAMILIES.get(getattr(config, "model_type", ""))
    if not isinstance(model, torch.nn.Module) or config is None:
        raise UnsupportedModelError(f"{kind} is no transformers model: give one of {supported}")
    if family is None or kind not in family.classes:
        raise UnsupportedModelError(f"{kind} is not supported: supported are {supported}")
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        raise UnsupportedModelError(
            f"{kind}.forward takes no mm_encoder_outputs: install transformers >= 5.18"
        )
    return family


def patch_grid(model: Any, tokens: int) -> tuple[int, int] | None:
    """Rows and columns of an image's patches, or None where `tokens` form no such grid."""
    vision = model.config.vision_config
    side, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(side, int) or not isinstance(patch, int):
        return None
    rows = side // patch
    return (rows, rows) if rows * rows == tokens else None


def family_facts() -> list[dict[str, Any]]:
    """One dictionary a family, for listings."""
    return [
        {
            "name": family.name,
            "model_type": family.model_type,
            "classes": list(family.classes),
            "images": True,
            "video": False,
            "positions": family.positions,
            "hub": list(family.hub),
            "status": "tested",
        }
        for family in FAMILIES.values()
    ]
