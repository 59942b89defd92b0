"""Sizes of small checkpoints, from their configurations.

python -m bench.checkpoints                                        # parameters, cache, rows
python -m bench.checkpoints --measure NAME [--dtype bfloat16]      # memory, with random weights

Models are built on the meta device, without weights; a photo of 640 x 480 pixels goes through the
image processors with the checkpoints' sizes. The configurations are as published with the
checkpoints, less what no size depends on. `sparevlm.commands.sizes` holds what is printed;
tests/test_sizes.py compares both, and the numbers of parameters with those that were published.
"""

from __future__ import annotations

import argparse
import resource
from typing import Any

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GotOcr2ImageProcessorPil,
    LlavaOnevisionImageProcessorPil,
    Qwen2VLImageProcessorPil,
    SmolVLMImageProcessorPil,
)
from transformers.models.llava_onevision.modeling_llava_onevision import unpad_image

from sparevlm.commands.sizes import SIZES, WORDS, Size
from sparevlm.speed.shapes import SHAPES

PHOTO = (640, 480)

_SIGLIP = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
}  # fmt: skip
# LLaVA reads the last layer but one, and its checkpoints end there.
_SIGLIP_26 = _SIGLIP | {
    "model_type": "siglip_vision_model", "num_hidden_layers": 26, "vision_use_head": False,
}  # fmt: skip
_SMOL = {"model_type": "llama", "vocab_size": 49280, "head_dim": 64}
_QWEN2_05B = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2,
}  # fmt: skip
_QWEN_EYE = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2}
_LLAVA = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}

CONFIGS: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": {
        "model_type": "smolvlm", "scale_factor": 4, "tie_word_embeddings": False,
        "vision_config": {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12, "image_size": 512, "patch_size": 16,
        },
        "text_config": _SMOL | {
            "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
            "num_attention_heads": 9, "num_key_value_heads": 3,
        },
    },
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": {
        "model_type": "smolvlm", "scale_factor": 3, "tie_word_embeddings": False,
        "vision_config": _SIGLIP,
        "text_config": _SMOL | {
            "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24,
            "num_attention_heads": 32, "num_key_value_heads": 32,
        },
    },
    "llava-hf/llava-interleave-qwen-0.5b-hf": _LLAVA | {
        "model_type": "llava", "vision_config": _SIGLIP_26, "tie_word_embeddings": True,
        "text_config": {
            "model_type": "qwen2", "hidden_size": 1024, "intermediate_size": 2816,
            "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16,
            "vocab_size": 152000,
        },
    },
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _LLAVA | {
        "model_type": "llava_onevision", "vision_config": _SIGLIP_26, "tie_word_embeddings": True,
        "text_config": _QWEN2_05B | {"vocab_size": 151936},
    },
    "OpenGVLab/InternVL3-1B-hf": {
        "model_type": "internvl", "tie_word_embeddings": False,
        "vision_config": {
            "model_type": "internvl_vision", "hidden_size": 1024, "intermediate_size": 4096,
            "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": [448, 448],
            "patch_size": [14, 14], "attention_bias": True,
        },
        "text_config": _QWEN2_05B | {"vocab_size": 151674},
    },
    "Qwen/Qwen2-VL-2B-Instruct": {
        "model_type": "qwen2_vl", "tie_word_embeddings": True,
        "vision_config": _QWEN_EYE | {"embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4},
        "text_config": {
            "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
            "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936,
        },
    },
    "Qwen/Qwen2.5-VL-3B-Instruct": {
        "model_type": "qwen2_5_vl", "tie_word_embeddings": True,
        "vision_config": _QWEN_EYE | {
            "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 2048,
        },
        "text_config": {
            "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36,
            "num_attention_heads": 16, "num_key_value_heads": 2, "vocab_size": 151936,
        },
    },
    "Qwen/Qwen3-VL-2B-Instruct": {
        "model_type": "qwen3_vl", "tie_word_embeddings": True,
        "vision_config": {
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16,
            "out_hidden_size": 2048, "patch_size": 16, "spatial_merge_size": 2,
            "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
        },
        "text_config": {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
            "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "vocab_size": 151936,
        },
    },
    "llava-hf/llava-1.5-7b-hf": SHAPES["llava-1.5-7b"][0],
    "Qwen/Qwen2.5-VL-7B-Instruct": SHAPES["qwen2.5-vl-7b"][0],
    "Qwen/Qwen3-VL-8B-Instruct": SHAPES["qwen3-vl-8b"][0],
}  # fmt: skip


def rows_of_photo(config: Any) -> tuple[int, int]:
    """Rows in the encoder, and visual tokens, of a photo."""
    photo, vision = Image.new("RGB", PHOTO), config.vision_config
    if config.model_type == "llava":
        side = (vision.image_size // vision.patch_size) ** 2
        return side + (vision.model_type == "clip_vision_model"), side
    if config.model_type == "smolvlm":
        longest = vision.image_size * 4  # as their preprocessor_config.json has it
        made = SmolVLMImageProcessorPil(
            size={"longest_edge": longest}, max_image_size={"longest_edge": vision.image_size}
        )(photo)
        tiles, side = len(made["pixel_values"][0]), vision.image_size // vision.patch_size
        return tiles * side**2, tiles * (side // config.scale_factor) ** 2
    if config.model_type == "llava_onevision":
        made = LlavaOnevisionImageProcessorPil()(photo)
        tiles, side = len(made["pixel_values"][0]), vision.image_size // vision.patch_size
        across = int((tiles - 1) ** 0.5)  # as many tiles across as down, for this photo
        whole = torch.empty(1, across * side, across * side, device="meta")
        _, rows, columns = unpad_image(whole, PHOTO[::-1]).shape
        return tiles * side**2, side**2 + rows * (columns + 1)
    if config.model_type == "internvl":
        tiles = len(GotOcr2ImageProcessorPil(crop_to_patches=True)(photo)["pixel_values"])
        side = vision.image_size[0] // vision.patch_size[0]
        return tiles * (side**2 + 1), tiles * config.image_seq_length
    merge = vision.spatial_merge_size
    grid = Qwen2VLImageProcessorPil(patch_size=vision.patch_size, merge_size=merge)(photo)
    patches = int(grid["image_grid_thw"][0].prod())
    return patches, patches // merge**2


def computed(facts: dict[str, Any]) -> Size:
    """The size of a checkpoint with this configuration."""
    config = AutoConfig.for_model(**facts)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    text, vision = config.get_text_config(), config.vision_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    wide = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or wide * vision.mlp_ratio
    patches, tokens = rows_of_photo(config)
    return Size(
        parameters=sum(weight.numel() for weight in model.parameters()),
        cache=2 * text.num_hidden_layers * text.num_key_value_heads * head,
        encoder=(wide, int(inner)),
        language=(text.hidden_size, text.intermediate_size),
        patches=patches,
        tokens=tokens,
    )


def measured(name: str, dtype: torch.dtype) -> float:
    """Gigabytes that this process took at most: a photo and 256 tokens more through the model.

    Of LLaVA with one tile and SmolVLM. Weights are random, in place of those that would be loaded.
    """
    config = AutoConfig.for_model(**CONFIGS[name])
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    model.to_empty(device="cpu").eval().tie_weights()
    for weight in model.parameters():
        weight.data.normal_(0, 0.02)
    for held in model.buffers():
        held.data.copy_(
            torch.zeros_like(held) if held.is_floating_point()
            else torch.arange(held.numel()).view(held.shape)
        )  # fmt: skip
    count, side = SIZES[name], config.vision_config.image_size
    tiles = count.patches * config.vision_config.patch_size**2 // side**2 or 1
    shape = (tiles, 3, side, side)
    pixels = torch.randn(1, *shape) if config.model_type == "smolvlm" else torch.randn(shape)
    with torch.no_grad():
        rows = model.model.get_image_features(pixels.to(dtype)).pooler_output
        rows = torch.cat(list(rows)).reshape(1, -1, count.language[0])
        assert rows.shape[1] == count.tokens, rows.shape
        prompt = torch.cat([rows, torch.randn(1, WORDS, rows.shape[2]).to(dtype)], 1)
        states = model.model.get_decoder()(inputs_embeds=prompt, use_cache=True)
        model.lm_head(states.last_hidden_state[:, -1:])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=[n for n in CONFIGS if "Smol" in n or "inter" in n])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = parser.parse_args()
    if given.measure is None:
        for name in SIZES:
            print(name, computed(CONFIGS[name]))
        return
    dtype = getattr(torch, given.dtype)
    told = SIZES[given.measure].memory(dtype.itemsize) / 1e9
    took = measured(given.measure, dtype)
    print(f"{given.measure} {given.dtype}: measured {took:.2f} GB, computed {told:.2f} GB")


if __name__ == "__main__":
    main()
