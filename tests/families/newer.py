"""Families that came to transformers lately; each is built where its classes are there."""

from __future__ import annotations

import functools
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
from tests.families.videos import (
    FRAMES,
    HEIGHT,
    REAL,
    WIDTH,
    GridFrames,
    MergedFrames,
    PlacedFrames,
    PooledFrames,
    image_processor,
)

MEAN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def video_processor(name: str, stand_in: Callable[[], Any], **settings: Any) -> Any:
    """A family's processor of videos, made small, or what stands in for it."""
    return getattr(tf, f"{name}VideoProcessor")(**settings, **MEAN) if REAL else stand_in()


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
    images = image_processor(
        "Pixtral", size={"longest_edge": 112}, patch_size={"height": 28, "width": 28}, **MEAN
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
    square = {"height": 56, "width": 56}
    images = image_processor("DeepseekVL", size=square, min_size=14, **MEAN)
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
    images = image_processor("GotOcr2", size={"height": 64, "width": 64}, **MEAN)
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
    size = {"shortest_edge": 16 * 8**2, "longest_edge": 60 * 8**2}
    images = image_processor("VideoLlama3", size=size, patch_size=8, **MEAN)
    videos = video_processor(
        "VideoLlama3", MergedFrames, patch_size=8, use_token_compression=False,
        size={"shortest_edge": 16**2, "longest_edge": HEIGHT * WIDTH * FRAMES},
    )  # fmt: skip
    processor = with_frames(tf.VideoLlama3Processor)(images, tokenizer, videos)
    model = wide(lambda: tf.VideoLlama3ForConditionalGeneration(config))
    return Made("video_llama_3", model, processor, image="<|image_pad|>", video="<|video_pad|>")


# The fewest tokens that their processors take as a limit.
GEMMA4_SIZES: dict[str, Any] = {"patch_size": 8, "max_soft_tokens": 70, "pooling_kernel_size": 2}


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
    images = image_processor("Gemma4", **GEMMA4_SIZES)
    videos = video_processor("Gemma4", PlacedFrames, **GEMMA4_SIZES)
    make_processor = with_frames(processor_of("gemma4", "Gemma4Processor"))
    processor = make_processor(tf.Gemma4AudioFeatureExtractor(), images, tokenizer, videos)
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
    images = _WholePatches(**MEAN)
    if REAL:
        images = image_processor("Gemma4Unified", **GEMMA4_SIZES, **MEAN)
    placed = functools.partial(PlacedFrames, patch=16, pooled=1)
    videos = video_processor("Gemma4Unified", placed, **GEMMA4_SIZES)
    own = processor_of("gemma4_unified", "Gemma4UnifiedProcessor", like="Gemma4")
    processor = with_frames(own)(tf.Gemma4UnifiedAudioFeatureExtractor(), images, tokenizer, videos)
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
    images = _Lfm2Tiles(**MEAN)
    if REAL:  # of the three shapes that the tests have, the square is whole here, too
        images = image_processor(
            "Lfm2Vl", tile_size=32, encoder_patch_size=8, max_tiles=2, min_image_tokens=4,
            max_image_tokens=16, max_pixels_tolerance=3.2, **MEAN,
        )  # fmt: skip
    processor = tf.Lfm2VlProcessor(images, tokenizer)
    model = wide(lambda: tf.Lfm2VlForConditionalGeneration(config))
    return Made("lfm2_vl", model, processor, nested=True)


def qianfan_ocr() -> Made:
    tokenizer = make_tokenizer(
        "<image>", start_image_token="<img>", end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
    )  # fmt: skip
    vision = vision_settings(image_size=[56, 56], patch_size=[14, 14])
    config = tf.QianfanOCRConfig(
        vision_config=vision,
        text_config=tf.Qwen3Config(**text_settings(tokenizer)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    square = {"height": 56, "width": 56}
    images = image_processor(
        "GotOcr2", crop_to_patches=True, min_patches=1, max_patches=4, size=square, **MEAN
    )
    processor = tf.QianfanOCRProcessor(images, tokenizer, image_seq_length=4)
    model = wide(lambda: tf.QianfanOCRForConditionalGeneration(config))
    return Made("qianfan_ocr", model, processor)


class _PlainGrid(Tiles):
    """Pictures of up to 60 tokens, each of 2 x 2 patches of 8 x 8, which are not flattened."""

    merge_size = 2

    def _preprocess(self, images: Any, return_tensors: Any, **options: Any) -> BatchFeature:
        found, grids = [], []
        for image in images:
            height, width = (side // 32 * 2 for side in image.shape[-2:])
            scaled = self.cut(image, 1, 1, options | _size(8 * height, 8 * width))[0]
            cut = scaled.reshape(3, height, 8, width, 8).transpose(1, 3, 0, 2, 4)
            found.append(cut.reshape(-1, 3, 8, 8))
            grids.append([1, height, width])
        data = {"pixel_values": np.concatenate(found), "image_grid_thw": np.array(grids)}
        return BatchFeature(data, tensor_type="pt")


def kimi_k25() -> Made:
    tokenizer = make_tokenizer(
        "<|media_begin|>", "<|media_content|>", "<|media_end|>", image_token="<|media_pad|>",
        video_token="<|kimi_k25_video_placeholder|>",
    )  # fmt: skip
    text = text_settings(
        tokenizer, num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=16, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, moe_intermediate_size=32, first_k_dense_replace=1,
    )  # fmt: skip
    del text["head_dim"]
    config = tf.Kimi_K25Config(
        vision_config=vision_settings(patch=8, pos_emb_height=8, pos_emb_width=8),
        text_config=tf.DeepseekV3Config(**text),
        projection_hidden_size=32,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        tie_word_embeddings=False,
    )
    images = _PlainGrid(**MEAN)
    if REAL:
        images = image_processor("Kimi_K25", patch_size=8, max_patches=120, **MEAN)
    videos = video_processor("Kimi_K25", GridFrames, patch_size=8, max_patches=120)
    processor = with_frames(tf.Kimi_K25Processor)(images, tokenizer, videos)
    model = wide(lambda: tf.Kimi_K25ForConditionalGeneration(config), "projector", "experts")
    model.set_experts_implementation("eager")  # the one it comes with knows no float64
    image = "<|media_begin|><|media_content|><|media_pad|><|media_end|>"
    return Made("kimi_k25", model, processor, image=image)


class _Molmo2Crops(Tiles):
    """A square picture is seen once more in one crop; another in two, side by side.

    Each crop has 8 x 8 patches of 7 x 7, of which 2 x 2 are a token.
    """

    def _preprocess(self, images: Any, return_tensors: Any, **options: Any) -> BatchFeature:
        crops, pools, grids, counts, first = [], [], [], [], 0
        for image in images:
            rows, columns = (1 + (a > b) for a, b in (image.shape[-2:], image.shape[:-3:-1]))
            tiles = [self.cut(image, 1, 1, options)[0], *self.cut(image, rows, columns, options)]
            crops += [_patches(tile, 7) for tile in tiles]
            places = first + np.arange(64 * len(tiles)).reshape(-1, 8, 8)
            canvas = places[1:].reshape(rows, columns, 8, 8).transpose(0, 2, 1, 3)
            for view in (places[0], canvas.reshape(8 * rows, 8 * columns)):
                height, width = (side // 2 for side in view.shape)
                pooled = view.reshape(height, 2, width, 2).transpose(0, 2, 1, 3)
                pools.append(pooled.reshape(-1, 4))
            grids.append([4, 4, 4 * rows, 4 * columns])
            counts.append(len(tiles))
            first += 64 * len(tiles)
        data = {
            "pixel_values": np.stack(crops), "image_token_pooling": np.concatenate(pools),
            "image_grids": np.array(grids), "image_num_crops": np.array(counts),
        }  # fmt: skip
        return BatchFeature(data, tensor_type="pt")


def molmo2() -> Made:
    marks = (
        "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>",
        "<frame_end>", "<im_low>",
    )  # fmt: skip
    tokenizer = make_tokenizer(*marks, image_token="<|image|>", video_token="<|video|>")
    ids = dict(zip(marks, tokenizer.convert_tokens_to_ids(list(marks)), strict=True))
    vision = vision_settings(patch=7, head_dim=8, num_key_value_heads=4)
    config = tf.Molmo2Config(
        vision_config=vision | {"image_size": [56, 56]},
        adapter_config={
            "vision_feature_layer": [2, 1], "hidden_size": 32, "num_attention_heads": 4,
            "num_key_value_heads": 4, "head_dim": 8, "intermediate_size": 64,
            "text_hidden_size": 64,
        },
        text_config=text_settings(tokenizer, additional_vocab_size=0),
        image_patch_id=ids["<im_patch>"],
        image_start_token_id=ids["<im_start>"],
        low_res_image_start_token_id=ids["<low_res_im_start>"],
        image_end_token_id=ids["<im_end>"],
        frame_start_token_id=ids["<frame_start>"],
        frame_end_token_id=ids["<frame_end>"],
    )  # fmt: skip
    size = {"height": 56, "width": 56}
    images = _Molmo2Crops(**MEAN)
    if REAL:  # of two crops with a margin 13 patches are seen, which two do not divide
        images = image_processor(
            "Molmo2", size=size, patch_size=7, max_crops=2, overlap_margins=[2, 1], **MEAN
        )
    videos = video_processor("Molmo2", PooledFrames, size=size, patch_size=7)
    processor = with_frames(tf.Molmo2Processor)(images, videos, tokenizer)
    model = wide(lambda: tf.Molmo2ForConditionalGeneration(config))
    return Made("molmo2", model, processor, image="<|image|>", video="<|video|>")


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
    ("QianfanOCRConfig", qianfan_ocr),
    ("Kimi_K25Config", kimi_k25),
    ("Molmo2Config", molmo2),
)
BUILDERS = {make.__name__: make for name, make in _BUILDERS if hasattr(tf, name)}
