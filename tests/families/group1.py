"""Families whose positions are one number a token: those of `onedim`, and more cut into tiles."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import transformers as tf
from transformers.utils import is_torchvision_available

from tests.families import onedim
from tests.families.common import Made, finished, make_tokenizer, text_settings, vision_settings
from tests.families.onedim import (
    gemma3,
    internvl,
    llava_next,
    llava_next_mistral,
    llava_onevision,
    paligemma,
    vipllava,
)

TILE, PATCH, SIDE = 56, 7, 4  # a tile has 8 x 8 patches, merged into SIDE x SIDE visual tokens


def _pixtral_processor() -> type:
    """PixtralProcessor. Its module wants torchvision for a function that the PIL module has too."""
    if is_torchvision_available():
        return tf.PixtralProcessor
    place = "transformers.models.pixtral"
    wanted = f"{place}.image_processing_pixtral"
    sys.modules[wanted] = importlib.import_module(f"{place}.image_processing_pil_pixtral")
    try:
        return importlib.import_module(f"{place}.processing_pixtral").PixtralProcessor
    finally:
        del sys.modules[wanted]


def mistral3() -> Made:
    made = onedim.mistral3()
    config, layout = made.model.config, made.processor
    processor = _pixtral_processor()(
        layout.image_processor, layout.tokenizer, patch_size=config.vision_config.patch_size,
        spatial_merge_size=config.spatial_merge_size,
    )  # fmt: skip
    return replace(made, processor=processor)


def _tiles() -> Any:
    """At most four tiles and a thumbnail, which comes last."""
    return tf.GotOcr2ImageProcessorPil(
        crop_to_patches=True, min_patches=1, max_patches=4, size={"height": TILE, "width": TILE},
        **onedim.MEAN,
    )  # fmt: skip


def _cohere(tokenizer: Any) -> dict[str, Any]:
    """Settings of both towers; one layer of the text model sees a window, one everything."""
    layers = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention"]}
    return {
        "vision_config": tf.SiglipVisionConfig(
            **vision_settings(TILE, PATCH, vision_use_head=False)
        ),
        "text_config": tf.Cohere2Config(**text_settings(tokenizer, **layers)),
        "downsample_factor": 2,
    }


def cohere2_vision() -> Made:
    tokenizer = make_tokenizer(
        image_token="<|IMG_PATCH|>", boi_token="<|START_OF_IMG|>", eoi_token="<|END_OF_IMG|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )  # fmt: skip
    config = tf.Cohere2VisionConfig(
        **_cohere(tokenizer), image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=64,
    )  # fmt: skip
    images = _tiles()  # the family's own needs torchvision, and picks other grids
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
        _tiles(), tokenizer, patch_size=PATCH, img_size=TILE, downsample_factor=2
    )
    model = finished(lambda: tf.AyaVisionForConditionalGeneration(config))
    return Made("aya_vision", model, processor)


BUILDERS: dict[str, Callable[[], Made]] = {
    f.__name__: f
    for f in (
        vipllava, llava_next, llava_next_mistral, llava_onevision, internvl, gemma3, paligemma,
        mistral3, cohere2_vision, aya_vision,
    )
}  # fmt: skip
