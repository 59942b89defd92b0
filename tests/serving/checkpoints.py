"""Tiny random checkpoints that vLLM can load, made from the families of the other tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from sparevlm.pocket.training.language import classic_names
from tests.families import BUILDERS
from tests.families.common import Made, finished

VIDEOS = ("llava_onevision", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
NAMES = ("llava", "llava_next", *VIDEOS)


def make(name: str) -> Made:
    """The tiny model of a family, in float32, with heads as wide as vLLM's attention takes."""
    made = BUILDERS[name]()
    config = made.model.config
    text = config.text_config
    text.num_attention_heads, text.num_key_value_heads, text.head_dim = 2, 1, 32
    rope = text.rope_parameters
    if "mrope_section" in rope:
        rope["mrope_section"] = [2 * part for part in rope["mrope_section"]]
    kind = type(made.model)
    made.model = finished(lambda: kind(config)).float()
    return made


def save(made: Made, folder: Path) -> Path:
    """Write the model and what its processor is read from."""
    made.model.save_pretrained(folder)
    if made.name.startswith("llava"):
        classic_names(folder / "model.safetensors")
    processor = made.processor
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    own: dict[str, Any] = {"processor_class": type(processor).__name__}
    for key in ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens",
                "num_image_tokens", "image_seq_length"):  # fmt: skip
        if getattr(processor, key, None) is not None:
            own[key] = getattr(processor, key)
    (folder / "processor_config.json").write_text(json.dumps(own))
    if made.name in VIDEOS:
        video = json.dumps(processor.video_processor.to_dict(), default=str)
        (folder / "video_preprocessor_config.json").write_text(video)
    return folder


def load(folder: Path) -> Any:
    """The checkpoint in transformers, as vLLM's answers are compared with it."""
    config = tf.AutoConfig.from_pretrained(folder)
    kind = getattr(tf, config.architectures[0])
    return kind.from_pretrained(folder, dtype=torch.float32).eval()
