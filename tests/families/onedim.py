"""Families whose positions are one number a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers as tf

from tests.families.common import (
    Made,
    finished,
    make_tokenizer,
    processor_of,
    text_settings,
    vision_settings,
    with_frames,
)
from tests.families.videos import REAL, image_processor, square_frames

MEAN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
SQUARE = {"size": {"height": 56, "width": 56}, **MEAN}


def _clip_processor():
    crop = {"height": 56, "width": 56}
    return image_processor("CLIP", size={"shortest_edge": 56}, crop_size=crop, **MEAN)


def llava(text: str = "Llama", **more: Any) -> Made:
    tokenizer = make_tokenizer(image_token="<image>")
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**vision_settings()),
        text_config=getattr(tf, f"{text}Config")(**text_settings(tokenizer, **more)),
        image_token_index=tokenizer.image_token_id,
    )
    processor = tf.LlavaProcessor(
        _clip_processor(), tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    model = finished(lambda: tf.LlavaForConditionalGeneration(config))
    return Made("llava", model, processor)


def llava_interleave() -> Made:
    tokenizer = make_tokenizer("<|im_start|>", "<|im_end|>", image_token="<image>")
    config = tf.LlavaConfig(
        vision_config=tf.SiglipVisionConfig(**vision_settings(vision_use_head=False)),
        text_config=tf.Qwen2Config(**text_settings(tokenizer)),
        image_token_index=tokenizer.image_token_id, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    processor = tf.LlavaProcessor(
        image_processor("Siglip", **SQUARE), tokenizer, patch_size=14,
        vision_feature_select_strategy="full", num_additional_image_tokens=0,
    )  # fmt: skip
    model = finished(lambda: tf.LlavaForConditionalGeneration(config))
    return Made("llava_interleave", model, processor)


def vipllava() -> Made:
    tokenizer = make_tokenizer(image_token="<image>")
    config = tf.VipLlavaConfig(
        vision_config=tf.CLIPVisionConfig(**vision_settings()),
        text_config=tf.LlamaConfig(**text_settings(tokenizer)),
        image_token_index=tokenizer.image_token_id, vision_feature_layers=[-2, 1],
    )  # fmt: skip
    processor = tf.LlavaProcessor(
        _clip_processor(), tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    model = finished(lambda: tf.VipLlavaForConditionalGeneration(config))
    return Made("vipllava", model, processor)


def _llava_next(name: str, text: type) -> Made:
    tokenizer = make_tokenizer(image_token="<image>")
    grids = [[56, 112], [112, 56], [112, 112]]
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**vision_settings()),
        text_config=text(**text_settings(tokenizer)),
        image_token_index=tokenizer.image_token_id, image_grid_pinpoints=grids,
    )  # fmt: skip
    images = image_processor(
        "LlavaNext", size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=grids, **MEAN,
    )  # fmt: skip
    processor = tf.LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    model = finished(lambda: tf.LlavaNextForConditionalGeneration(config))
    return Made(name, model, processor)


def llava_next() -> Made:
    return _llava_next("llava_next", tf.LlamaConfig)


def llava_next_mistral() -> Made:
    return _llava_next("llava_next_mistral", tf.MistralConfig)


def llava_onevision() -> Made:
    tokenizer = make_tokenizer(image_token="<image>", video_token="<video>")
    grids = [[56, 112], [112, 56], [112, 112]]
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**vision_settings()),
        text_config=tf.Qwen2Config(**text_settings(tokenizer)),
        image_token_index=tokenizer.image_token_id, video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=grids,
    )  # fmt: skip
    images = image_processor("LlavaOnevision", image_grid_pinpoints=grids, **SQUARE)
    processor = with_frames(tf.LlavaOnevisionProcessor)(
        images, tokenizer, square_frames("LlavaOnevision"), num_image_tokens=16,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    model = finished(lambda: tf.LlavaOnevisionForConditionalGeneration(config))
    return Made("llava_onevision", model, processor)


def internvl() -> Made:
    tokenizer = make_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )  # fmt: skip
    vision = vision_settings(image_size=[56, 56], patch_size=[14, 14])
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**vision),
        text_config=tf.Qwen2Config(**text_settings(tokenizer)),
        image_token_id=tokenizer.context_image_token_id, image_seq_length=4,
    )  # fmt: skip
    images = image_processor(
        "GotOcr2", crop_to_patches=True, min_patches=1, max_patches=4, **SQUARE
    )
    processor = with_frames(tf.InternVLProcessor)(
        images, tokenizer, square_frames("InternVL"), image_seq_length=4
    )
    model = finished(lambda: tf.InternVLForConditionalGeneration(config))
    return Made("internvl", model, processor, image="<IMG_CONTEXT>")


def gemma3() -> Made:
    tokenizer = make_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    config = tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(**vision_settings(84, vision_use_head=False)),
        text_config=tf.Gemma3TextConfig(**text_settings(tokenizer, sliding_window=24)),
        image_token_index=tokenizer.image_token_id, boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id, mm_tokens_per_image=9,
    )  # fmt: skip
    images = image_processor("Gemma3", size={"height": 84, "width": 84}, **MEAN)
    processor = tf.Gemma3Processor(images, tokenizer, image_seq_length=9)
    model = finished(lambda: tf.Gemma3ForConditionalGeneration(config), words=0.02)
    return Made("gemma3", model, processor, image="<start_of_image>", nested=True)


def paligemma(text: type = tf.GemmaConfig) -> Made:
    tokenizer = make_tokenizer(image_token="<image>")
    images = image_processor("Siglip", **SQUARE)
    images.image_seq_length = 16
    processor = tf.PaliGemmaProcessor(images, tokenizer)
    config = tf.PaliGemmaConfig(
        vision_config=tf.SiglipVisionConfig(**vision_settings(vision_use_head=False)),
        text_config=text(**text_settings(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"), projection_dim=64,
    )  # fmt: skip
    model = finished(lambda: tf.PaliGemmaForConditionalGeneration(config), words=0.1)
    return Made("paligemma", model, processor, nested=True, text_only=False)


def mistral3() -> Made:
    tokenizer = make_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = tf.Mistral3Config(
        vision_config=tf.PixtralVisionConfig(**vision_settings(112, head_dim=8)),
        text_config=tf.MistralConfig(**text_settings(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"), spatial_merge_size=2,
    )  # fmt: skip
    images = image_processor(
        "Pixtral", size={"longest_edge": 112}, patch_size={"height": 28, "width": 28}, **MEAN
    )
    processor = processor_of("pixtral", "PixtralProcessor")(
        images, tokenizer, patch_size=14, spatial_merge_size=2
    )
    model = finished(lambda: tf.Mistral3ForConditionalGeneration(config))
    return Made("mistral3", model, processor, image="[IMG]", nested=True)


TILE, PATCH, SIDE = 56, 7, 4  # a tile has 8 x 8 patches, merged into SIDE x SIDE visual tokens


def _tiles(name: str) -> Any:
    """At most four tiles and a thumbnail, which comes last."""
    return image_processor(
        name, crop_to_patches=True, min_patches=1, max_patches=4,
        size={"height": TILE, "width": TILE}, **MEAN,
    )  # fmt: skip


def _cohere(tokenizer: Any, kinds: tuple[str, ...] = ("sliding", "full")) -> dict[str, Any]:
    """Settings of both towers; layers of the text model see a window, or everything."""
    layers = {
        "sliding_window": 24, "layer_types": [f"{kind}_attention" for kind in kinds],
        "num_hidden_layers": len(kinds),
    }  # fmt: skip
    return {
        "vision_config": tf.SiglipVisionConfig(
            **vision_settings(TILE, PATCH, vision_use_head=False)
        ),
        "text_config": tf.Cohere2Config(**text_settings(tokenizer, **layers)),
        "downsample_factor": 2,
    }


def cohere2_vision(*kinds: str) -> Made:
    tokenizer = make_tokenizer(
        image_token="<|IMG_PATCH|>", boi_token="<|START_OF_IMG|>", eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )  # fmt: skip
    config = tf.Cohere2VisionConfig(
        **_cohere(tokenizer, kinds or ("sliding", "full")),
        image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=64,
    )  # fmt: skip
    # The family's own needs torchvision, and picks other grids.
    images = _tiles("Cohere2Vision" if REAL else "GotOcr2")
    images.patch_size = SIDE  # by which the processor means the tokens along a tile's side
    processor = tf.Cohere2VisionProcessor(images, tokenizer)
    model = finished(lambda: tf.Cohere2VisionForConditionalGeneration(config))
    return Made("cohere2_vision", model, processor, image="<|IMG_PATCH|>")


def aya_vision() -> Made:
    marks = [f"TILE_{i}" for i in (1, 2, 3, 4, "GLOBAL")]
    tokenizer = make_tokenizer(
        "<image>", "<|IMG_PATCH|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", *marks
    )
    config = tf.AyaVisionConfig(
        **_cohere(tokenizer), image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>")
    )
    processor = tf.AyaVisionProcessor(
        _tiles("GotOcr2"), tokenizer, patch_size=PATCH, img_size=TILE, downsample_factor=2
    )
    model = finished(lambda: tf.AyaVisionForConditionalGeneration(config))
    return Made("aya_vision", model, processor)


BUILDERS: dict[str, Callable[[], Made]] = {
    f.__name__: f
    for f in (
        llava, llava_interleave, vipllava, llava_next, llava_next_mistral, llava_onevision,
        internvl, gemma3, paligemma, mistral3, cohere2_vision, aya_vision,
    )
}  # fmt: skip
