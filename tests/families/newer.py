"""Families that came to transformers lately; each is built where its classes are there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import transformers as tf

from tests.families.common import (
    Made,
    make_tokenizer,
    processor_of,
    text_settings,
    vision_settings,
    with_frames,
)
from tests.families.grids_and_tiles import wide
from tests.families.videos import MergedFrames, PlacedFrames

MEAN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def lighton_ocr() -> Made:
    tokenizer = make_tokenizer(
        image_token="<|image_pad|>", image_break_token="<|vision_pad|>",
        image_end_token="<|vision_end|>",
    )  # fmt: skip
    config = tf.LightOnOcrConfig(
        vision_config=tf.PixtralVisionConfig(**vision_settings(112, head_dim=8)),
        text_config=tf.Qwen3Config(**text_settings(tokenizer)),
        image_token_id=tokenizer.image_token_id,
    )
    images = tf.PixtralImageProcessorPil(
        size={"longest_edge": 112}, patch_size={"height": 28, "width": 28}, **MEAN
    )
    processor = tf.LightOnOcrProcessor(images, tokenizer)
    model = wide(lambda: tf.LightOnOcrForConditionalGeneration(config), "vision_projection")
    return Made("lighton_ocr", model, processor, image="<|image_pad|>", nested=True)


def deepseek_vl() -> Made:
    tokenizer = make_tokenizer(image_token="<image_placeholder>")
    config = tf.DeepseekVLConfig(
        vision_config=tf.SiglipVisionConfig(**vision_settings(vision_use_head=False)),
        text_config=tf.LlamaConfig(**text_settings(tokenizer)),
        image_token_id=tokenizer.image_token_id,
    )
    images = tf.DeepseekVLImageProcessorPil(size={"height": 56, "width": 56}, min_size=14, **MEAN)
    processor = tf.DeepseekVLProcessor(images, tokenizer, num_image_tokens=16)
    model = wide(lambda: tf.DeepseekVLForConditionalGeneration(config), "aligner")
    return Made("deepseek_vl", model, processor, image="<image_placeholder>")


class _Sixteen(tf.GotOcr2Processor):
    """Tiles of 4 x 4 tokens, where released checkpoints have 16 x 16."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        more = {"num_image_tokens": 16, "crop_to_patches": True, "max_patches": 3}
        return super().__call__(*args, **options, **more)


def got_ocr2() -> Made:
    tokenizer = make_tokenizer("<|im_start|>", "<|im_end|>", "<img>", "</img>", "<imgpad>")
    vision = {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 3, "mlp_dim": 64,
        "num_attention_heads": 4, "image_size": 64, "patch_size": 4, "window_size": 4,
        "global_attn_indexes": [1], "initializer_range": 0.2,
    }  # fmt: skip
    config = tf.GotOcr2Config(
        vision_config=vision,
        text_config=tf.Qwen2Config(**text_settings(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
    )
    images = tf.GotOcr2ImageProcessorPil(size={"height": 64, "width": 64}, **MEAN)
    model = wide(lambda: tf.GotOcr2ForConditionalGeneration(config))
    processor = _Sixteen(images, tokenizer)
    return Made("got_ocr2", model, processor, image="<img><imgpad></img>", text_only=False)


def video_llama_3() -> Made:
    tokenizer = make_tokenizer(image_token="<|image_pad|>", video_token="<|video_pad|>")
    config = tf.VideoLlama3Config(
        vision_config=tf.VideoLlama3VisionConfig(**vision_settings(patch=8)),
        text_config=tf.Qwen2Config(**text_settings(tokenizer)),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
    )
    images = tf.VideoLlama3ImageProcessorPil(
        size={"shortest_edge": 16 * 8**2, "longest_edge": 60 * 8**2}, patch_size=8, **MEAN
    )
    processor = with_frames(tf.VideoLlama3Processor)(images, tokenizer, MergedFrames())
    model = wide(lambda: tf.VideoLlama3ForConditionalGeneration(config))
    return Made("video_llama_3", model, processor, image="<|image_pad|>", video="<|video_pad|>")


def _gemma4(**text: Any) -> Made:
    tokenizer = make_tokenizer(
        "<|video|>", image_token="<|image|>", boi_token="<|image>", eoi_token="<image|>",
        audio_token="<|audio|>", boa_token="<|audio>", eoa_token="<audio|>",
    )  # fmt: skip
    vision = vision_settings(patch=8, head_dim=8, num_key_value_heads=4)
    config = tf.Gemma4Config(
        vision_config=vision | {"pooling_kernel_size": 2, "position_embedding_size": 64},
        text_config=text_settings(
            tokenizer, sliding_window=24, global_head_dim=16, num_hidden_layers=4,
            layer_types=["sliding_attention", "full_attention"] * 2, **text,
        ),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        audio_token_id=tokenizer.audio_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        tie_word_embeddings=False,
    )  # fmt: skip
    images = tf.Gemma4ImageProcessorPil(patch_size=8, max_soft_tokens=70, pooling_kernel_size=2)
    known = inspect.signature(tf.Gemma4Model.get_video_features).parameters
    frames = PlacedFrames(stacked="num_frames_per_video" not in known)
    make_processor = with_frames(processor_of("gemma4", "Gemma4Processor"))
    processor = make_processor(tf.Gemma4AudioFeatureExtractor(), images, tokenizer, frames)
    model = wide(
        lambda: tf.Gemma4ForConditionalGeneration(config), "embed_vision", "per_layer", "input_proj"
    )
    return Made("gemma4", model, processor, image="<|image|>", video="<|video|>", nested=True)


def gemma4() -> Made:
    """As the small ones: embeddings for each layer, and layers that share keys and values."""
    tokens = {"vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8}
    return _gemma4(num_kv_shared_layers=2, **tokens)


def gemma4_moe() -> Made:
    """As the large ones: tokens of a picture see each other; experts."""
    made = _gemma4(
        hidden_size_per_layer_input=0, use_bidirectional_attention="vision", enable_moe_block=True,
        num_experts=4, top_k_experts=2, moe_intermediate_size=32,
    )  # fmt: skip
    made.model.set_experts_implementation("eager")
    made.name = "gemma4_moe"
    return made


# The configuration that must be there, for transformers grew some of them after 5.18.
_BUILDERS: tuple[tuple[str, Callable[[], Made]], ...] = (
    ("LightOnOcrConfig", lighton_ocr),
    ("DeepseekVLConfig", deepseek_vl),
    ("GotOcr2Config", got_ocr2),
    ("VideoLlama3Config", video_llama_3),
    ("Gemma4Config", gemma4),
    ("Gemma4Config", gemma4_moe),
)
BUILDERS = {make.__name__: make for name, make in _BUILDERS if hasattr(tf, name)}
