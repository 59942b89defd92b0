"""Families that came to transformers lately; each is built where its classes are there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import transformers as tf
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs

from tests.families.common import (
    Made,
    make_tokenizer,
    processor_of,
    text_settings,
    vision_settings,
    with_frames,
)
from tests.families.grids_and_tiles import Tiles, wide
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


def _gemma4_tokenizer() -> Any:
    return make_tokenizer(
        "<|video|>", image_token="<|image|>", boi_token="<|image>", eoi_token="<image|>",
        audio_token="<|audio|>", boa_token="<|audio>", eoa_token="<audio|>",
    )  # fmt: skip


def _gemma4_text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    return text_settings(
        tokenizer, sliding_window=24, global_head_dim=16, num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2, **more,
    )  # fmt: skip


def _gemma4_ids(tokenizer: Any) -> dict[str, Any]:
    names = ("image", "audio", "boi", "eoi")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}
    video = tokenizer.convert_tokens_to_ids("<|video|>")
    return ids | {"video_token_id": video, "tie_word_embeddings": False}


def _gemma4(**text: Any) -> Made:
    tokenizer = _gemma4_tokenizer()
    vision = vision_settings(patch=8, head_dim=8, num_key_value_heads=4)
    config = tf.Gemma4Config(
        vision_config=vision | {"pooling_kernel_size": 2, "position_embedding_size": 64},
        text_config=_gemma4_text(tokenizer, **text),
        **_gemma4_ids(tokenizer),
    )
    images = tf.Gemma4ImageProcessorPil(patch_size=8, max_soft_tokens=70, pooling_kernel_size=2)
    make_processor = with_frames(processor_of("gemma4", "Gemma4Processor"))
    processor = make_processor(tf.Gemma4AudioFeatureExtractor(), images, tokenizer, PlacedFrames())
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


def _patches(image: np.ndarray, side: int) -> np.ndarray:
    """[3, H, W] -> [patches, side * side * 3], row by row."""
    _, height, width = image.shape
    cut = image.reshape(3, height // side, side, width // side, side)
    return cut.transpose(1, 3, 2, 4, 0).reshape(-1, side * side * 3)


class _WholePatches(Tiles):
    """Pictures of up to 70 patches of 16 x 16, each with its place; each patch is a token."""

    def _preprocess(self, images: Any, return_tensors: Any, **options: Any) -> BatchFeature:
        found, places, counts = [], [], []
        for image in images:
            height, width = (side // 16 for side in image.shape[-2:])
            size = {"height": 16 * height, "width": 16 * width}
            scaled = self.cut(image, 1, 1, options | {"size": SizeDict(**size)})[0]
            patches, counted = _patches(scaled, 16), height * width
            place = np.stack(np.meshgrid(range(width), range(height)), -1).reshape(-1, 2)
            found.append(np.pad(patches, ((0, 120 - counted), (0, 0))))
            places.append(np.pad(place, ((0, 120 - counted), (0, 0)), constant_values=-1))
            counts.append(counted)
        data = {"pixel_values": np.stack(found), "image_position_ids": np.stack(places)}
        several = BatchFeature(data, tensor_type=return_tensors)
        several["num_soft_tokens_per_image"] = counts
        return several


def gemma4_unified() -> Made:
    tokenizer = _gemma4_tokenizer()
    config = tf.Gemma4UnifiedConfig(
        vision_config={
            "patch_size": 8, "pooling_kernel_size": 2, "mm_embed_dim": 32, "mm_posemb_size": 64,
            "output_proj_dims": 32,
        },
        audio_config=None,
        text_config=_gemma4_text(tokenizer, use_bidirectional_attention="vision"),
        **_gemma4_ids(tokenizer),
    )  # fmt: skip
    own = processor_of("gemma4_unified", "Gemma4UnifiedProcessor", like="Gemma4")
    processor = with_frames(own)(
        tf.Gemma4UnifiedAudioFeatureExtractor(), _WholePatches(**MEAN), tokenizer,
        PlacedFrames(patch=16, pooled=1),
    )  # fmt: skip
    model = wide(lambda: tf.Gemma4UnifiedForConditionalGeneration(config), "embed_vision")
    image, video = "<|image|>", "<|video|>"
    return Made("gemma4_unified", model, processor, image=image, video=video, nested=True)


class _Lfm2Kwargs(ImagesKwargs, total=False):
    return_row_col_info: bool


class _Lfm2Tiles(Tiles):
    """A square picture is whole; another is cut into two tiles, and has a coarser one of all."""

    valid_kwargs = _Lfm2Kwargs
    tile_size, downsample_factor, encoder_patch_size, use_thumbnail = 32, 2, 8, True

    def _preprocess(self, images: Any, return_tensors: Any, **options: Any) -> BatchFeature:
        found, shapes, rows, columns, sizes = [], [], [], [], []
        for image in images:
            height, width = image.shape[-2:]
            rows.append(1 + (height > width))
            columns.append(1 + (width > height))
            sizes.append(
                [48, 48] if height == width else [16 * (1 + rows[-1]), 16 * (1 + columns[-1])]
            )
            tiles = [self.cut(image, 1, 1, options | _size(*sizes[-1]))[0]]
            if height != width:
                tiles = [*self.cut(image, rows[-1], columns[-1], options | _size(32, 32)), *tiles]
            found += [_patches(tile, 8) for tile in tiles]
            shapes += [[side // 8 for side in tile.shape[1:]] for tile in tiles]
        longest = max(len(patches) for patches in found)
        padded = [np.pad(patches, ((0, longest - len(patches)), (0, 0))) for patches in found]
        mask = [[1] * len(patches) + [0] * (longest - len(patches)) for patches in found]
        data = {"pixel_values": np.stack(padded), "spatial_shapes": shapes}
        several = BatchFeature(data | {"pixel_attention_mask": mask}, tensor_type="pt")
        several["image_rows"], several["image_cols"] = rows, columns
        several["image_sizes"] = sizes
        return several


def _size(height: int, width: int) -> dict[str, Any]:
    return {"size": SizeDict(height=height, width=width)}


def lfm2_vl() -> Made:
    places = [f"<|img_row_{row}_col_{column}|>" for row in (1, 2) for column in (1, 2)]
    tokenizer = make_tokenizer(
        *places, image_token="<image>", image_start_token="<|image_start|>",
        image_end_token="<|image_end|>", image_thumbnail_token="<|img_thumbnail|>",
    )  # fmt: skip
    text = text_settings(tokenizer, layer_types=["conv", "full_attention"], block_ff_dim=96)
    config = tf.Lfm2VlConfig(
        vision_config=tf.Siglip2VisionConfig(
            **vision_settings(patch=8, vision_use_head=False, num_patches=16)
        ),
        text_config=tf.Lfm2Config(**text),
        image_token_id=tokenizer.image_token_id,
        projector_hidden_size=64,
        tie_word_embeddings=False,
    )
    processor = tf.Lfm2VlProcessor(_Lfm2Tiles(**MEAN), tokenizer)
    model = wide(lambda: tf.Lfm2VlForConditionalGeneration(config))
    return Made("lfm2_vl", model, processor, nested=True)


# The configuration that must be there, for transformers grew some of them after 5.18.
_BUILDERS: tuple[tuple[str, Callable[[], Made]], ...] = (
    ("LightOnOcrConfig", lighton_ocr),
    ("DeepseekVLConfig", deepseek_vl),
    ("GotOcr2Config", got_ocr2),
    ("VideoLlama3Config", video_llama_3),
    ("Gemma4Config", gemma4),
    ("Gemma4Config", gemma4_moe),
    ("Gemma4UnifiedConfig", gemma4_unified),
    ("Lfm2VlConfig", lfm2_vl),
)
BUILDERS = {make.__name__: make for name, make in _BUILDERS if hasattr(tf, name)}
