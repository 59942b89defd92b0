"""A Qwen2.5-VL of random weights, whose videos vLLM prunes too (EVS)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

from bench.serving.load import FRAME
from sparevlm.pocket.model import make_tokenizer

MARKS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>", "vision_end_token": "<|vision_end|>",
}  # fmt: skip
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Pocket's, with Qwen's marks."""
    plain = make_tokenizer()
    inner = Tokenizer.from_str(plain.backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=plain.pad_token, unk_token=plain.unk_token,
        bos_token=plain.bos_token, eos_token=plain.eos_token, extra_special_tokens=MARKS,
        chat_template=TEMPLATE, model_max_length=8192,
    )  # fmt: skip


def config(tokenizer: Any) -> Qwen2_5_VLConfig:
    """Patches of 14 in pairs of frames, 2 x 2 merged: 64 tokens of two frames of 224 pixels."""
    vision = {
        "depth": 8, "hidden_size": 512, "intermediate_size": 1408, "num_heads": 8,
        "out_hidden_size": 1024, "window_size": 112, "fullatt_block_indexes": [3, 7],
    }  # fmt: skip
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 1024, "intermediate_size": 2816,
        "num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12],
        },
        "pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(mark) for name, mark in MARKS.items()}
    return Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids)


def save(folder: Path) -> int:
    """Write the checkpoint (bfloat16) unless it is there; returns its number of parameters."""
    tokenizer = _tokenizer()
    made = config(tokenizer)
    with torch.device("meta"):
        size = sum(p.numel() for p in Qwen2_5_VLForConditionalGeneration(made).parameters())
    if (folder / "model.safetensors").exists():
        return size
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(made).to(torch.bfloat16)
    tokenizer.save_pretrained(folder)
    pixels = {
        "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
        "size": {"shortest_edge": 28**2, "longest_edge": FRAME**2},
    }  # fmt: skip
    Qwen2VLImageProcessorPil(**pixels).save_pretrained(folder)
    own = {"processor_class": "Qwen2_5_VLProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(own))
    video = {"video_processor_type": "Qwen2VLVideoProcessor", **pixels}
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video))
    model.save_pretrained(folder, max_shard_size="10GB")
    return size
