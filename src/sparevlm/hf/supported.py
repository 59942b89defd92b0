"""Which models are supported, and a sentence for each kind that is not."""

from __future__ import annotations

from typing import Any

import torch

from sparevlm.families import FAMILIES, Family
from sparevlm.hf import stock

_MROPE = "its positions have several axes (M-RoPE), which pruning does not carry over yet"
_QUERIES = "its Q-Former or resampler gives the language model learned queries, not patches"
_CODES = "its pictures are codes of the vocabulary (VQ), not features"
_CROSS = "its language model reads pictures by cross-attention, not as tokens"
_SEQ2SEQ = "it is an encoder-decoder, whose decoder reads pictures by cross-attention"
_SOUND = "it takes sound, not pictures"
_TILES = (
    "the tiles of its pictures come in an argument of their own (pixel_values_local), a layout "
    "that is not known here"
)
_INDEXER = (
    "its layers attend to those tokens only that an indexer of theirs picks, which has not been "
    "tried on shortened prompts"
)
_NEIGHBOURS = (
    "its layers mix a token with its neighbours and learn what their distance means, which has "
    "not been tried on shortened prompts"
)
_TIMM = "its vision encoder is a convolutional network of timm, which has not been tried here"
_PACKED = (
    "its pictures and their slices are packed into one row of pixels, of which its forward takes "
    "the first copy alone"
)
_UNTRIED = "nothing in it is known to stand against pruning, but it has not been tested here yet"
_REWRITTEN = "its forward takes no features made before, so it would have to be rewritten"

REASONS: dict[str, str] = {
    **dict.fromkeys(
        (
            "qwen4_exp", "qwen2_5_omni", "qwen2_5_omni_thinker", "qwen3_omni_moe",
            "qwen3_omni_moe_thinker", "glm_ocr", "glmga",
            "ernie4_5_vl_moe", "exaone4_5", "hunyuan_vl", "hyperclovax_vision_v2", "hy_v4_vl",
            "paddleocr_vl", "cohere_compass", "cosmos3_edge", "cosmos3_omni", "minicpmv4_7",
        ),
        _MROPE,
    ),
    **dict.fromkeys(
        (
            "blip-2", "blip_2", "instructblip", "instructblipvideo", "granite4_vision", "aria",
            "idefics2", "kosmos-2", "kosmos-2.5", "deepseek_ocr2",
        ),
        _QUERIES,
    ),
    **dict.fromkeys(("chameleon", "emu3", "janus", "apertus1p5"), _CODES),
    **dict.fromkeys(("mllama", "idefics", "evolla", "blip"), _CROSS),
    **dict.fromkeys(
        (
            "florence2", "pix2struct", "pp_formulanet", "t5gemma2", "udop",
            "vision-encoder-decoder",
        ),
        _SEQ2SEQ,
    ),
    **dict.fromkeys(
        (
            "fun_asr_nano", "glmasr", "granite_speech", "granite_speech_plus",
            "kyutai_speech_to_text", "moss_transcribe_diarize", "nemo_speechlm", "omniasr",
            "qwen2_audio", "qwen3_asr", "vibevoice_asr", "voxtral", "voxtral_realtime",
        ),
        _SOUND,
    ),
    **dict.fromkeys(("step3p7", "unlimited_ocr"), _TILES),
    **dict.fromkeys(("dots3_note", "glm5_next", "minimax_m3_vl", "mistral_large4"), _INDEXER),
    **dict.fromkeys(("inkling_mm_model", "inkling2", "inkling2_loop"), _NEIGHBOURS),
    **dict.fromkeys(("fast_vlm", "gemma3n"), _TIMM),
    **dict.fromkeys(("minicpmv4_6", "minicpm_ocr"), _PACKED),
    **dict.fromkeys(("lfm3_vl", "muse_glimmer", "muse_spark"), _UNTRIED),
    "deepseek_vl_hybrid": "two encoders read each picture, of which methods could look into one",
    "diffusion_gemma": "it writes whole blocks by diffusion, with a generate of its own",
    "fuyu": "it has no vision encoder, and takes features from a field that pruning does not write",
    "git": "it puts a picture before the prompt, without placeholders in it",
    "granite_docling": (
        "a router of its own decides how finely a picture is encoded, which has not been tried here"
    ),
    "llama4": "its forward projects the features itself, after the place where pruned ones come in",
    "mistral4": "its class in transformers is a language model alone, without pictures",
    "nemotron_h_omni": "its forward drops tokens of videos itself, by a rule of its own",
    "phi4_multimodal": _REWRITTEN,
    "pi0": "it gives the movements of a robot, not text",
    "video_llava": "pictures and videos have an encoder each, of which methods could look into one",
}  # fmt: skip


def why_not(model: Any) -> str:
    """Why a transformers model is not supported."""
    config = model.config
    known = REASONS.get(getattr(config, "model_type", ""))
    if known is not None:
        return known
    if getattr(config, "is_encoder_decoder", False):
        return _SEQ2SEQ
    if not stock.takes_features(model):
        return _REWRITTEN
    return "its layout of visual tokens has not been tested yet"


class UnsupportedModelError(ValueError):
    """The model belongs to no family that is supported; the message says why."""


def find_family(model: Any) -> Family:
    """Facts of a model's family.

    Raises
    ------
    UnsupportedModelError
        If there are none, or the installed transformers cannot take pruned features for it.
    """
    kind = type(model).__name__
    config = getattr(model, "config", None)
    family = FAMILIES.get(getattr(config, "model_type", ""))
    if not isinstance(model, torch.nn.Module) or config is None:
        raise UnsupportedModelError(f"{kind} is no transformers model: give one of {_supported()}")
    stock.check_version()
    if _is_remote(model):
        raise UnsupportedModelError(
            f"{kind} comes from a repository's own code (trust_remote_code), of which nothing is "
            f"known: load it with the class in transformers; supported are {_supported()}"
        )
    if family is None or kind not in family.classes:
        raise UnsupportedModelError(
            f"{kind} is not supported: {why_not(model)}; supported are {_supported()}"
        )
    if not stock.takes_features(model):
        raise UnsupportedModelError(
            f"{kind}.forward takes no pruned features in transformers {stock.installed()}: install "
            f"transformers >= {stock.OLDEST}"
        )
    return family


def _supported() -> str:
    return ", ".join(sorted(family.classes[0] for family in FAMILIES.values()))


def _is_remote(model: Any) -> bool:
    return type(model).__module__.startswith("transformers_modules.")
