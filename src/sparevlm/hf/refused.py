"""Why a model is not supported: a sentence for each kind."""

from __future__ import annotations

from typing import Any

from sparevlm.hf import stock

_MROPE = "its positions have several axes (M-RoPE), which pruning does not carry over yet"
_QUERIES = "its Q-Former gives the language model a few queries already, not patches"
_CODES = "its pictures are codes of the vocabulary (VQ), not features"
_CROSS = "its language model reads pictures by cross-attention, not as tokens"

REASONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "qwen4_exp", "qwen2_5_omni", "qwen2_5_omni_thinker", "qwen3_omni_moe",
            "qwen3_omni_moe_thinker", "glm_ocr", "glmga",
            "ernie4_5_vl_moe", "exaone4_5", "hunyuan_vl", "hyperclovax_vision_v2", "paddleocr_vl",
            "cohere_compass", "cosmos3_edge", "cosmos3_omni", "minicpmv4_7",
        ),
        _MROPE,
    ),
    **dict.fromkeys(("blip-2", "blip_2", "instructblip", "instructblipvideo"), _QUERIES),
    "granite4_vision": _QUERIES,
    **dict.fromkeys(("chameleon", "emu3", "janus"), _CODES),
    **dict.fromkeys(("mllama", "idefics", "evolla"), _CROSS),
    "llama4": "its forward projects the features itself, after the place where pruned ones come in",
}  # fmt: skip


def why_not(model: Any) -> str:
    """Why a transformers model is not supported."""
    config = model.config
    known = REASONS.get(getattr(config, "model_type", ""))
    if known is not None:
        return known
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder, whose decoder reads pictures by cross-attention"
    if not stock.takes_features(model):
        return "its forward takes no features made before, so it would have to be rewritten"
    return "its layout of visual tokens has not been tested yet"
