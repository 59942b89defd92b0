"""What the tiny families share: a tokenizer, pictures of several shapes, small configurations."""

from __future__ import annotations

import importlib
import re
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sparevlm.pocket.model import END, PAD, START, UNKNOWN
from sparevlm.pocket.questions import words
from sparevlm.pocket.scenes import draw_scene
from tests.families.videos import REAL, times

SIZES = [(112, 112), (200, 120), (90, 180)]
EVERY_FRAME = {"do_sample_frames": False}  # some processors would leave frames out


def make_tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """One word, one token; `named` special tokens become attributes."""
    known = (PAD, UNKNOWN, START, END, *special, *named.values())
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys((*known, *words(), ":", "\n")))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, vocabulary[START])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, bos_token=START,
        eos_token=END,
        extra_special_tokens=named | {f"extra_{i}": mark for i, mark in enumerate(special)},
        padding_side="left", model_max_length=4096,
    )  # fmt: skip


def with_frames(processor: type) -> type:
    """A processor class that takes a stand-in for its video processor, which needs torchvision."""
    if REAL:
        return processor

    class WithFrames(processor):  # type: ignore[misc, valid-type]
        def check_argument_for_proper_class(self, name: str, value: Any) -> Any:
            if name == "video_processor":
                return None
            return super().check_argument_for_proper_class(name, value)

    WithFrames.__name__ = processor.__name__
    return WithFrames


def processor_of(family: str, name: str, like: str = "") -> Any:
    """A processor whose module wants torchvision for a function that a PIL module has too.

    That of the family, or of one that it is `like`: Gemma4 for Gemma4Unified.
    """
    if REAL:
        return getattr(transformers, name)
    other = like.lower() or family
    there = importlib.import_module(f"transformers.models.{other}.image_processing_pil_{other}")
    wanted = f"transformers.models.{family}.image_processing_{family}"
    own = name.removesuffix("Processor")
    sys.modules[wanted] = found = types.ModuleType(wanted)
    found.__dict__.update({k.replace(like or own, own): v for k, v in vars(there).items()})
    try:
        module = importlib.import_module(f"transformers.models.{family}.processing_{family}")
        return getattr(module, name)
    finally:
        del sys.modules[wanted]


def clip(number: int, frames: int = 6) -> np.ndarray:
    """A video [F, 120, 160, 3] that shows another scene in every frame."""
    scenes = [draw_scene(100 * number + i).picture().resize((160, 120)) for i in range(frames)]
    return np.stack([np.asarray(scene.convert("RGB")) for scene in scenes])


@dataclass
class Made:
    """A tiny random model of a family, and its real processor."""

    name: str
    model: Any
    processor: Any
    image: str = "<image>"  # what stands for a picture in a prompt
    video: str = "<video>"  # and for a video
    nested: bool = False  # whether the processor wants a list of pictures for each prompt
    text_only: bool = True  # whether it takes a prompt without a picture

    def inputs(
        self,
        *prompts: str,
        side: str = "left",
        first: int = 0,
        film: Callable[[int], np.ndarray] = clip,
    ) -> dict[str, Any]:
        """Tensors of prompts with "<image>" and "<video>" in them.

        Pictures are scenes of several shapes; `film` makes the video at each place.
        """
        pictures, place = [], first
        videos: list[Any] = [film(first + i) for i in range(_count("<video>", prompts))]
        known = [times(len(video)) for video in videos]
        if self.nested:
            left = iter(videos)
            videos = [[next(left) for _ in range(p.count("<video>"))] for p in prompts]
        for prompt in prompts:
            count = prompt.count("<image>")
            shapes = [SIZES[(place + i) % len(SIZES)] for i in range(count)]
            scenes = [draw_scene(place + i).picture() for i in range(count)]
            pictures.append([s.resize(shape) for s, shape in zip(scenes, shapes, strict=True)])
            place += count
        flat = [picture for row in pictures for picture in row]
        self.processor.tokenizer.padding_side = side
        found = self.processor(
            images=(pictures if self.nested else flat) if flat else None,
            text=[self._written(prompt) for prompt in prompts],
            padding=True,
            return_tensors="pt",
            **({"videos": videos, "video_metadata": known, **EVERY_FRAME} if known else {}),
        )
        self.processor.tokenizer.padding_side = "left"
        found.pop("labels", None)  # PaliGemma's makes some up
        dtype = self.model.dtype
        return {
            k: v.to(dtype) if k.startswith("pixel_values") and v.is_floating_point() else v
            for k, v in found.items()
        }

    def _written(self, prompt: str) -> str:
        parts = re.split("(<image>|<video>)", prompt)
        marks = {"<image>": self.image, "<video>": self.video}
        return "".join(marks.get(part, part) for part in parts)


def _count(mark: str, prompts: tuple[str, ...]) -> int:
    return sum(prompt.count(mark) for prompt in prompts)


def finished(make: Callable[[], Any], *, words: float = 1.0) -> Any:
    """The model in float64, its text weights wide so that answers differ, never stopping.

    `words` scales the embeddings; Gemma's norms would let the last word alone decide.
    """
    seed = 0
    torch.manual_seed(seed)
    model = make().eval().double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            text = "language_model" in name or "lm_head" in name or "projector" in name
            if weight.ndim == 2 and text:
                scale = words if "embed_tokens" in name else 1.0
                weight.normal_(0, 2.0 * scale / weight.shape[1] ** 0.5, generator=generator)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 10**6
    return model


def text_settings(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    """Settings of a two-layer language model, 64 wide."""
    return {
        "vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "max_position_embeddings": 4096, "pad_token_id": 0, "bos_token_id": 2,
        "eos_token_id": 3, "tie_word_embeddings": False,
    } | more  # fmt: skip


def vision_settings(size: int = 56, patch: int = 14, **more: Any) -> dict[str, Any]:
    """Settings of a three-layer vision tower, 32 wide."""
    return {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3,
        "num_attention_heads": 4, "image_size": size, "patch_size": patch,
    } | more  # fmt: skip
