"""A LLaVA of random weights, big enough for the language model to matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from sparevlm.pocket.model import CHAT_TEMPLATE, make_tokenizer
from sparevlm.pocket.training.language import classic_names


def config(tokenizer: Any) -> LlavaConfig:
    """336 pixels, patches of 14: 576 tokens a picture, the geometry of LLaVA-1.5."""
    vision = CLIPVisionConfig(
        hidden_size=512, intermediate_size=2048, num_hidden_layers=8, num_attention_heads=8,
        image_size=336, patch_size=14,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=1024, intermediate_size=2816, num_hidden_layers=20,
        num_attention_heads=16, num_key_value_heads=8, max_position_embeddings=8192,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False,
    )  # fmt: skip
    return LlavaConfig(
        vision_config=vision, text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip


def save(folder: Path) -> int:
    """Write the checkpoint (bfloat16) unless it is there; returns its number of parameters.

    Weights are random, which changes no time; the tokenizer is pocket's.
    """
    tokenizer = make_tokenizer()
    with torch.device("meta"):
        size = sum(p.numel() for p in LlavaForConditionalGeneration(config(tokenizer)).parameters())
    if (folder / "model.safetensors").exists():
        return size
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config(tokenizer)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="10GB")
    classic_names(folder / "model.safetensors")
    crop = {"height": 336, "width": 336}
    images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=crop)
    LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return size
