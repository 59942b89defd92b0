"""Families with grids of any shape, and more families cut into tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers as tf
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.models.smolvlm import processing_smolvlm

from tests.families.common import (
    Made,
    finished,
    make_tokenizer,
    text_settings,
    vision_settings,
    with_frames,
)
from tests.families.videos import REAL, grid_frames, image_processor, square_frames

MEAN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def wide(make: Callable[[], Any], *parts: str) -> Any:
    """`finished`, with wide weights too where one of `parts` is in the name."""
    model = finished(make)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim in (2, 3) and any(part in name for part in parts):
                weight.normal_(0, 2.0 / weight.shape[-1] ** 0.5, generator=generator)
    return model


def _of(family: str, part: str) -> Any:
    """The class of transformers for a part of a family, as in Qwen3VL and Processor."""
    return getattr(tf, family + part)


def _ids(tokenizer: Any, *names: str) -> dict[str, int]:
    """The ids of the tokenizer's named tokens, as configurations call them."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in names}


# Families with a grid of any shape and positions of three coordinates.


def _rotary(*sections: int, **more: Any) -> dict[str, Any]:
    """Rotary embeddings of three coordinates; the sections add up to half of what is rotated."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections)}
    return {"rope_parameters": rope | more}


def _grid_vision(**more: Any) -> dict[str, Any]:
    """Settings of a three-layer vision tower, 32 wide, that merges 2 x 2 patches of 8 x 8."""
    return {
        "depth": 3, "num_heads": 4, "hidden_size": 32, "patch_size": 8, "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    } | more  # fmt: skip


def _grid_images(name: str, frames: int = 1) -> Any:
    """An image processor of pictures of 16 to 60 tokens; its limits count a picture `frames`."""
    size = {"shortest_edge": 16 * 16**2 * frames, "longest_edge": 60 * 16**2 * frames}
    return image_processor(
        name, size=size, patch_size=8, temporal_patch_size=2, merge_size=2, **MEAN
    )


def _qwen(
    family: str, vision: dict[str, Any], text: dict[str, Any], processor: str | None = None
) -> Made:
    tokenizer = make_tokenizer(
        image_token="<|image_pad|>", video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>", vision_end_token="<|vision_end|>",
    )  # fmt: skip
    config = _of(family, "Config")(
        vision_config=_grid_vision(**vision),
        text_config=text_settings(tokenizer, **text),
        **_ids(tokenizer, "image", "video", "vision_start", "vision_end"),
    )
    images = _grid_images("Qwen2VL")
    own = processor or family.removesuffix("Moe")
    make_processor = with_frames(_of(own, "Processor"))
    whole = own == "Qwen3VL"
    frames = grid_frames("Qwen3VL" if whole else "Qwen2VL", whole=whole)
    model = wide(lambda: _of(family, "ForConditionalGeneration")(config), "merger", "experts")
    return Made(
        config.model_type, model, make_processor(images, tokenizer, frames),
        image="<|vision_start|><|image_pad|><|vision_end|>",
        video="<|vision_start|><|video_pad|><|vision_end|>",
    )  # fmt: skip


def qwen2_vl() -> Made:
    vision = {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
    return _qwen("Qwen2VL", vision, _rotary(2, 3, 3))


def qwen2_5_vl() -> Made:
    vision = {
        "intermediate_size": 64, "out_hidden_size": 64, "window_size": 32,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    return _qwen("Qwen2_5_VL", vision, _rotary(2, 3, 3))


def _qwen3(family: str, **text: Any) -> Made:
    vision = {
        "intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    return _qwen(family, vision, text | _rotary(4, 2, 2, mrope_interleaved=True))


def qwen3_vl() -> Made:
    return _qwen3("Qwen3VL")


def qwen3_vl_moe() -> Made:
    made = _qwen3("Qwen3VLMoe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32)
    made.model.set_experts_implementation("eager")  # the one it comes with knows no float64
    return made


def _qwen3_5(family: str, **text: Any) -> Made:
    """One layer of linear attention, one of full attention."""
    vision = {"intermediate_size": 64, "out_hidden_size": 64, "num_position_embeddings": 64}
    linear = {
        "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
    }  # fmt: skip
    rotary = _rotary(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5)
    return _qwen(family, vision, text | linear | rotary, "Qwen3VL")


def qwen3_5() -> Made:
    return _qwen3_5("Qwen3_5")


def qwen3_5_moe() -> Made:
    made = _qwen3_5(
        "Qwen3_5Moe", num_experts=6, num_experts_per_tok=2, moe_intermediate_size=32,
        shared_expert_intermediate_size=32,
    )  # fmt: skip
    made.model.set_experts_implementation("eager")
    return made


def _glm(family: str, frames: int = 2, **text: Any) -> Made:
    tokenizer = make_tokenizer(
        image_token="<|image|>", video_token="<|video|>", image_start_token="<|begin_of_image|>",
        image_end_token="<|end_of_image|>", video_start_token="<|begin_of_video|>",
        video_end_token="<|end_of_video|>",
    )  # fmt: skip
    rotary = _rotary(1, 1, 2, partial_rotary_factor=0.5)
    text = text_settings(tokenizer, **rotary, **text)
    vision = _grid_vision(image_size=64, intermediate_size=64, out_hidden_size=64)
    config = _of(family, "Config")(
        vision_config=vision | ({"model_type": "glm4v_vision"} if family == "Glm46V" else {}),
        text_config=text | ({"model_type": "glm4v_text"} if family == "Glm46V" else {}),
        **_ids(tokenizer, "image", "video", "image_start", "image_end", "video_start", "video_end"),
    )
    own = "Glm46V" if family == "Glm46V" else "Glm4v"
    images = _grid_images(own, frames)
    processor = with_frames(_of(own, "Processor"))(images, tokenizer, grid_frames(own, whole=True))
    model = wide(
        lambda: _of(family, "ForConditionalGeneration")(config), "merger", "downsample", "experts"
    )
    image = "<|begin_of_image|><|image|><|end_of_image|>"
    video = "<|begin_of_video|><|video|><|end_of_video|>"
    return Made(config.model_type, model, processor, image=image, video=video)


def glm4v() -> Made:
    return _glm("Glm4v")


def glm46v() -> Made:
    return _glm("Glm46V")


def glm4v_moe() -> Made:
    made = _glm(
        "Glm4vMoe", n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
        first_k_dense_replace=1, n_group=1, topk_group=1,
    )  # fmt: skip
    made.model.set_experts_implementation("eager")
    return made


# Families that cut a picture into tiles.


def _idefics(family: str, make_processor: Callable[[Any, Any], Any]) -> Made:
    """Two or four tiles and the whole, each of 3 x 3 tokens."""
    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    tokenizer = make_tokenizer(
        "<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *places,
        image_token="<image>",
    )  # fmt: skip
    config = _of(family, "Config")(
        vision_config=vision_settings(48, 8),
        text_config=tf.LlamaConfig(**text_settings(tokenizer)),
        scale_factor=2,
        pad_token_id=0,
        **_ids(tokenizer, "image"),
    )
    images = image_processor(
        family, size={"longest_edge": 96}, max_image_size={"longest_edge": 48}, **MEAN
    )
    model = wide(lambda: _of(family, "ForConditionalGeneration")(config), "text_model", "connector")
    return Made(config.model_type, model, make_processor(images, tokenizer), nested=True)


def idefics3() -> Made:
    return _idefics("Idefics3", lambda *parts: tf.Idefics3Processor(*parts, image_seq_len=9))


def smolvlm() -> Made:
    # Without num2words the number of frames is written in digits.
    processing_smolvlm.num2words = processing_smolvlm.num2words or str

    def make_processor(*parts: Any) -> Any:
        frames = square_frames("SmolVLM", 48, "pixel_values")
        return with_frames(tf.SmolVLMProcessor)(*parts, frames, image_seq_len=9)

    return _idefics("SmolVLM", make_processor)


def llava_next_video() -> Made:
    tokenizer = make_tokenizer(image_token="<image>", video_token="<video>")
    grids = [[56, 112], [112, 56], [112, 112]]
    config = tf.LlavaNextVideoConfig(
        vision_config=tf.CLIPVisionConfig(**vision_settings()),
        text_config=tf.LlamaConfig(**text_settings(tokenizer)),
        image_token_index=tokenizer.image_token_id, video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=grids,
    )  # fmt: skip
    images = image_processor(
        "LlavaNext", size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=grids, **MEAN,
    )  # fmt: skip
    processor = with_frames(tf.LlavaNextVideoProcessor)(
        square_frames("LlavaNextVideo"), images, tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    model = wide(lambda: tf.LlavaNextVideoForConditionalGeneration(config))
    return Made("llava_next_video", model, processor)


def ovis2() -> Made:
    indicators = [f"<IMG_{part}>" for part in ("START", "GRID", "COL", "ROW", "END")]
    tokenizer = make_tokenizer("<image>", *indicators, image_token="<IMG_ATOM>")
    text = text_settings(tokenizer)
    config = tf.Ovis2Config(
        vision_config=vision_settings(56, 7, vocab_size=96, hidden_stride=2),
        text_config=tf.Qwen2Config(**text),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(indicators),
        vocab_size=text["vocab_size"],
        hidden_size=text["hidden_size"],
        tie_word_embeddings=False,
        **_ids(tokenizer, "image"),
    )
    images = image_processor(
        "Ovis2", size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4, **MEAN
    )
    processor = tf.Ovis2Processor(images, tokenizer, image_seq_length=16)
    model = wide(
        lambda: tf.Ovis2ForConditionalGeneration(config), "visual_embeddings", "head_linear"
    )
    model.model.vision_tower.head_norm.weight.data.fill_(6.0)  # patches choose different words
    return Made("ovis2", model, processor)


class Tiles(PilBackend):
    """Tiles along the longer side, and the whole picture.

    It stands in for image processors that cannot be imported without torchvision.
    """

    do_resize = do_rescale = do_normalize = do_convert_rgb = True
    resample = PILImageResampling.BILINEAR
    size: Any = {"height": 56, "width": 56}  # noqa: RUF012

    def cut(self, image: np.ndarray, rows: int, columns: int, options: dict[str, Any]) -> Any:
        """Tiles [rows * columns, 3, height, width]."""
        height, width = options["size"].height, options["size"].width
        scaled = self.resize(
            image, SizeDict(height=rows * height, width=columns * width), options["resample"]
        )
        scaled = self.rescale(scaled, options["rescale_factor"])
        scaled = self.normalize(scaled, options["image_mean"], options["image_std"])
        tiles = scaled.reshape(3, rows, height, columns, width).transpose(1, 3, 0, 2, 4)
        return tiles.reshape(-1, 3, height, width)


class _Llama4Tiles(Tiles):
    """A square picture is one tile; another is two, and the whole after them."""

    def _preprocess(self, images: Any, return_tensors: Any, **options: Any) -> BatchFeature:
        tiles, ratios = [], []
        for image in images:
            height, width = image.shape[-2:]
            ratios.append([1 + (height > width), 1 + (width > height)])
            tiles.append(self.cut(image, *ratios[-1], options))
            if height != width:
                tiles.append(self.cut(image, 1, 1, options))
        data = {"pixel_values": np.concatenate(tiles), "aspect_ratios": ratios}
        return BatchFeature(data, tensor_type=return_tensors)


def llama4() -> Made:
    """Tiles of 4 x 4 tokens; the second text layer has no rotary embeddings."""
    names = (
        "<|image_start|>", "<|image_end|>", "<|image|>", "<|tile_x_separator|>",
        "<|tile_y_separator|>",
    )  # fmt: skip
    tokenizer = make_tokenizer(*names, image_token="<|patch|>")
    vision = vision_settings(
        56, 7, intermediate_size=128, vision_output_dim=48, projector_input_dim=48,
        projector_output_dim=48,
    )  # fmt: skip
    text = text_settings(
        tokenizer, intermediate_size_mlp=96, num_local_experts=4, no_rope_layers=[1, 0]
    )
    config = tf.Llama4Config(
        vision_config=vision,
        text_config=text,
        boi_token_index=tokenizer.convert_tokens_to_ids("<|image_start|>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<|image_end|>"),
        image_token_index=tokenizer.image_token_id,
    )
    processor = tf.Llama4Processor(_Llama4Tiles(**MEAN), tokenizer, patch_size=7)
    model = wide(lambda: tf.Llama4ForConditionalGeneration(config), "experts", "vision_adapter")
    return Made("llama4", model, processor, image="<|image|>")


class _PerceptionTiles(Tiles):
    """The whole, and two tiles; always three, as pictures of one batch must agree."""

    def _preprocess(self, images: Any, return_tensors: Any, **options: Any) -> BatchFeature:
        rows = [1 + (image.shape[-2] > image.shape[-1]) for image in images]
        tiles = [
            np.concatenate([self.cut(image, 1, 1, options), self.cut(image, r, 3 - r, options)])
            for image, r in zip(images, rows, strict=True)
        ]
        return BatchFeature({"pixel_values": np.stack(tiles)}, tensor_type=return_tensors)


def perception_lm() -> Made:
    """Tiles of 4 x 4 tokens; a CLIP tower stands in for the one that needs timm."""
    tokenizer = make_tokenizer(image_token="<|image|>", video_token="<|video|>")
    config = tf.PerceptionLMConfig(
        vision_config=tf.CLIPVisionConfig(**vision_settings(56, 7), model_args={"embed_dim": 32}),
        text_config=tf.LlamaConfig(**text_settings(tokenizer)),
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        **_ids(tokenizer, "image", "video"),
    )
    images = _PerceptionTiles(**MEAN)
    if REAL:  # four tiles and the whole, whatever the picture
        images = image_processor("PerceptionLM", tile_size=56, max_num_tiles=4, **MEAN)
    processor = with_frames(tf.PerceptionLMProcessor)(
        square_frames("PerceptionLM"), images, tokenizer, patch_size=7, pooling_ratio=2
    )
    model = wide(lambda: tf.PerceptionLMForConditionalGeneration(config))
    return Made("perception_lm", model, processor, image="<|image|>", video="<|video|>")


BUILDERS: dict[str, Callable[[], Made]] = {
    f.__name__: f
    for f in (
        qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe, qwen3_5, qwen3_5_moe, glm4v, glm46v,
        glm4v_moe, idefics3, smolvlm, llava_next_video, ovis2, llama4, perception_lm,
    )
}  # fmt: skip
