"""A tiny random LLaVA whose outputs vary, in float64 so that comparisons are sharp."""

from __future__ import annotations

import torch
from transformers import CLIPModel, LlavaForConditionalGeneration

from sparevlm.pocket.model import clip_config, llava_config


def tiny_clip(seed: int = 0) -> CLIPModel:
    torch.manual_seed(seed)
    return CLIPModel(clip_config(width=32, layers=3)).eval().double()


def tiny_llava(seed: int = 0) -> LlavaForConditionalGeneration:
    """Vision tower 32 wide, language model 64 wide; wide weights make its answers differ."""
    clip = tiny_clip(seed)
    model = LlavaForConditionalGeneration(llava_config(clip.config.vision_config, 64, 2))
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "vision_tower" not in name:
                weight.normal_(0, 2.0 / weight.shape[1] ** 0.5, generator=generator)
    return model.eval().double()
