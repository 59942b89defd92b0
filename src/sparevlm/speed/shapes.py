"""Shapes of published models as data: what decides their time, without their weights."""

from __future__ import annotations

from typing import Any

# As in the configurations published with the checkpoints.
_CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
    "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
    "projection_dim": 768,
}  # fmt: skip
_VICUNA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32064,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
}  # fmt: skip
_VICUNA_13B = _VICUNA_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40,
    "num_attention_heads": 40,
}  # fmt: skip

# name: (configuration, height and width of the pictures)
SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "llava-1.5-7b": (
        {"model_type": "llava", "vision_config": _CLIP, "text_config": _VICUNA_7B},
        (336, 336),
    ),
    "llava-1.5-13b": (
        {"model_type": "llava", "vision_config": _CLIP, "text_config": _VICUNA_13B},
        (336, 336),
    ),
    "llava-next-7b": (
        {
            "model_type": "llava_next",
            "vision_config": _CLIP,
            "text_config": _VICUNA_7B,
            "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]],
        },
        (672, 672),
    ),
    "qwen2.5-vl-7b": (
        {
            "model_type": "qwen2_5_vl",
            "vision_config": {
                "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
                "out_hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2,
                "temporal_patch_size": 2, "window_size": 112,
                "fullatt_block_indexes": [7, 15, 23, 31],
            },
            "text_config": {
                "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
                "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
                "max_position_embeddings": 128000, "rms_norm_eps": 1e-6,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24],
                },
            },
        },
        (980, 980),
    ),
    "qwen3-vl-8b": (
        {
            "model_type": "qwen3_vl",
            "vision_config": {
                "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
                "out_hidden_size": 4096, "patch_size": 16, "spatial_merge_size": 2,
                "temporal_patch_size": 2, "num_position_embeddings": 2304,
                "deepstack_visual_indexes": [8, 16, 24],
            },
            "text_config": {
                "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
                "vocab_size": 151936, "max_position_embeddings": 262144, "rms_norm_eps": 1e-6,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
                    "mrope_interleaved": True,
                },
            },
        },
        (960, 960),
    ),
}  # fmt: skip
