"""Facts about the model families, for every engine: data, and what follows from it alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparevlm.templates import CHATML, COHERE, GEMMA, GLM4, HEADER, KIMI, PLAIN


@dataclass(frozen=True)
class Family:
    """What the mechanism must know of a family and cannot ask the model.

    Attributes
    ----------
    name : str
        As people write it.
    model_type : str
        `config.model_type` in transformers.
    classes : tuple of str
        Model classes that are supported; the first is the one with a language-model head.
    hub : tuple of str
        Checkpoints to use.
    positions : "compact" or "original"
        What positions="auto" means, as measured (docs/defaults.md).
    turns : tuple of str
        Chat templates of its checkpoints, patterns of `sparevlm.templates`; the last thing that the
        user says is the question.
    video : "no", "pictures", "tokens" or "marks"
        How a video comes: not at all; as pictures, one a frame; in an argument of its own, with
        placeholders of its own; or so, with the placeholders of pictures between marks of a video.
    marks : tuple of str
        What the configuration calls the ids of the tokens before and after a video, or a frame.
    tower, projector : str
        Attributes of the base model: the vision encoder, and what maps its rows to the language
        model's.
    newline : bool
        Whether each line of patches, and so each picture, ends with one and the same row.
    tiled : "no", "run", "near", "begin" or "end"
        How the tiles of one picture are told from the next picture's: "no": a picture is one entry;
        "run": tiles follow each other without a token between them; "near": with one at most, and
        pictures with more; "begin" or "end": the token
        before a run of placeholders tells the first, or the last, tile of a picture, and is the one
        before the first, or the last, run of the prompt.
    square : bool
        Whether an entry is a square of patches.
    mrope : bool
        Whether positions have several axes, which cannot be renumbered.
    grids : bool
        Whether the processor says how many patches a picture or frame has in rows and columns;
        squares of them make one token.
    inside : str
        Why tokens cannot be dropped between layers of the language model; "" where they can.
    text : str
        What kind of image-text model the vision tower comes from, for people; "" where its text
        tower is not to be had.
    vllm : str
        The class of `sparevlm.serving.models` that serves it in vLLM; "" where none does.
    tokens, frame : str
        Visual tokens of a picture, and of a frame of a video, for people.
    """

    name: str
    model_type: str
    classes: tuple[str, ...]
    hub: tuple[str, ...]
    positions: Literal["compact", "original"]
    turns: tuple[str, ...] = PLAIN
    video: Literal["no", "pictures", "tokens", "marks"] = "no"
    marks: tuple[str, str] = ("video_start_token_id", "video_end_token_id")
    tower: str = "vision_tower"
    projector: str = "multi_modal_projector"
    newline: bool = False
    tiled: Literal["no", "run", "near", "begin", "end"] = "no"
    square: bool = True
    mrope: bool = False
    grids: bool = False
    inside: str = ""
    text: str = ""
    vllm: str = ""
    tokens: str = ""
    frame: str = ""


LLAVA = Family(
    name="LLaVA-1.5 and LLaVA-Interleave",
    model_type="llava",
    classes=("LlavaForConditionalGeneration", "LlavaModel"),
    hub=(
        "llava-hf/llava-1.5-7b-hf",
        "llava-hf/llava-1.5-13b-hf",
        "llava-hf/llava-interleave-qwen-0.5b-hf",
        "llava-hf/llava-interleave-qwen-7b-hf",
    ),
    positions="original",
    turns=(CHATML, *PLAIN),
    text="CLIP (Interleave: SigLIP)",
    tokens="576 (Interleave: 729)",
    vllm="PrunedLlava",
)
VIPLLAVA = Family(
    name="ViP-LLaVA",
    model_type="vipllava",
    classes=("VipLlavaForConditionalGeneration", "VipLlavaModel"),
    hub=("llava-hf/vip-llava-7b-hf", "llava-hf/vip-llava-13b-hf"),
    positions="original",
    text="CLIP",
    tokens="576",
)
LLAVA_NEXT = Family(
    name="LLaVA-NeXT",
    model_type="llava_next",
    classes=("LlavaNextForConditionalGeneration", "LlavaNextModel"),
    hub=("llava-hf/llava-v1.6-vicuna-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"),
    positions="original",
    turns=(CHATML, HEADER, *PLAIN),
    newline=True,
    text="CLIP",
    tokens="1,176 to 2,928, line ends among them",
    vllm="PrunedLlavaNext",
)
LLAVA_ONEVISION = Family(
    name="LLaVA-OneVision",
    model_type="llava_onevision",
    classes=("LlavaOnevisionForConditionalGeneration", "LlavaOnevisionModel"),
    hub=(
        "llava-hf/llava-onevision-qwen2-0.5b-ov-hf",
        "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    ),
    video="tokens",
    positions="original",
    turns=(CHATML, *PLAIN),
    newline=True,
    text="SigLIP",
    tokens="729 to 7,290, line ends among them",
    frame="196",
    vllm="PrunedLlavaOnevision",
)
INTERNVL = Family(
    name="InternVL",
    model_type="internvl",
    classes=("InternVLForConditionalGeneration", "InternVLModel"),
    hub=("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3_5-1B-HF", "OpenGVLab/InternVL3-8B-hf"),
    video="pictures",
    positions="original",
    turns=(CHATML, *PLAIN),
    tiled="run",
    tokens="256 a tile, 1 to 13 tiles",
    frame="256",
    vllm="PrunedInternVL",
)
GEMMA3 = Family(
    name="Gemma 3",
    model_type="gemma3",
    classes=("Gemma3ForConditionalGeneration", "Gemma3Model"),
    hub=("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it"),
    positions="original",
    turns=(GEMMA, *PLAIN),
    text="SigLIP",
    tokens="256",
)
PALIGEMMA = Family(
    name="PaliGemma",
    model_type="paligemma",
    classes=("PaliGemmaForConditionalGeneration", "PaliGemmaModel"),
    hub=(
        "google/paligemma2-3b-mix-224",
        "google/paligemma2-3b-mix-448",
        "google/paligemma-3b-mix-224",
    ),
    positions="original",
    text="SigLIP",
    tokens="256, 1,024 or 4,096",
)
MISTRAL3 = Family(
    name="Mistral 3",
    model_type="mistral3",
    classes=("Mistral3ForConditionalGeneration", "Mistral3Model"),
    hub=("mistralai/Mistral-Small-3.1-24B-Instruct-2503",),
    positions="original",
    square=False,
    tokens="by the picture's size",
)
QWEN: dict[str, Any] = {
    "tower": "visual",
    "projector": "",
    "positions": "original",
    "video": "tokens",
    "turns": (CHATML, *PLAIN),
    "mrope": True,
    "grids": True,
    "tokens": "by the picture's size",
    "frame": "by its size; two frames make one",
}
QWEN2_VL = Family(
    name="Qwen2-VL",
    model_type="qwen2_vl",
    classes=("Qwen2VLForConditionalGeneration", "Qwen2VLModel"),
    hub=("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-7B-Instruct"),
    vllm="PrunedQwen2VL",
    **QWEN,
)
QWEN2_5_VL = Family(
    name="Qwen2.5-VL",
    model_type="qwen2_5_vl",
    classes=("Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLModel"),
    hub=("Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct"),
    vllm="PrunedQwen2_5_VL",
    **QWEN,
)
QWEN3_VL = Family(
    name="Qwen3-VL",
    model_type="qwen3_vl",
    classes=("Qwen3VLForConditionalGeneration", "Qwen3VLModel"),
    hub=("Qwen/Qwen3-VL-2B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"),
    vllm="PrunedQwen3VL",
    **QWEN,
)
QWEN3_VL_MOE = Family(
    name="Qwen3-VL (MoE)",
    model_type="qwen3_vl_moe",
    classes=("Qwen3VLMoeForConditionalGeneration", "Qwen3VLMoeModel"),
    hub=("Qwen/Qwen3-VL-30B-A3B-Instruct",),
    **QWEN,
)
QWEN3_5 = Family(
    name="Qwen3.5",
    model_type="qwen3_5",
    classes=("Qwen3_5ForConditionalGeneration", "Qwen3_5Model"),
    hub=("Qwen/Qwen3.5-2B", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-27B"),
    **QWEN,
)
QWEN3_5_MOE = Family(
    name="Qwen3.5 (MoE)",
    model_type="qwen3_5_moe",
    classes=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeModel"),
    hub=("Qwen/Qwen3.5-35B-A3B",),
    **QWEN,
)
GLM = QWEN | {"turns": (GLM4, *PLAIN), "video": "marks"}
GLM4V = Family(
    name="GLM-4V",
    model_type="glm4v",
    classes=("Glm4vForConditionalGeneration", "Glm4vModel"),
    hub=("zai-org/GLM-4.1V-9B-Thinking",),
    **GLM,
)
GLM4V_MOE = Family(
    name="GLM-4.5V",
    model_type="glm4v_moe",
    classes=("Glm4vMoeForConditionalGeneration", "Glm4vMoeModel"),
    hub=("zai-org/GLM-4.5V",),
    **GLM,
)
GLM46V = Family(
    name="GLM-4.6V",
    model_type="glm46v",
    classes=("Glm46VForConditionalGeneration", "Glm46VModel"),
    hub=("zai-org/GLM-4.6V-Flash",),
    **GLM,
)
LLAVA_NEXT_VIDEO = Family(
    name="LLaVA-NeXT-Video",
    model_type="llava_next_video",
    classes=("LlavaNextVideoForConditionalGeneration", "LlavaNextVideoModel"),
    hub=("llava-hf/LLaVA-NeXT-Video-7B-hf",),
    video="tokens",
    positions="original",
    newline=True,
    text="CLIP",
    tokens="1,176 to 2,928, line ends among them",
    frame="144",
)
PERCEPTION_LM = Family(
    name="Perception LM",
    model_type="perception_lm",
    classes=("PerceptionLMForConditionalGeneration", "PerceptionLMModel"),
    hub=("facebook/Perception-LM-1B", "facebook/Perception-LM-3B"),
    video="tokens",
    positions="original",
    turns=(HEADER, *PLAIN),
    tiled="run",
    tokens="256 a tile, 1 to 37 tiles",
    frame="256",
)
IDEFICS3 = Family(
    name="Idefics3",
    model_type="idefics3",
    classes=("Idefics3ForConditionalGeneration", "Idefics3Model"),
    hub=("HuggingFaceM4/Idefics3-8B-Llama3",),
    positions="original",
    tower="vision_model",
    projector="connector",
    tiled="end",
    text="SigLIP",
    tokens="169 a tile, 1 to 17 tiles",
)
SMOLVLM = Family(
    name="SmolVLM",
    model_type="smolvlm",
    classes=("SmolVLMForConditionalGeneration", "SmolVLMModel"),
    hub=("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", "HuggingFaceTB/SmolVLM2-2.2B-Instruct"),
    video="pictures",
    positions="original",
    tower="vision_model",
    projector="connector",
    tiled="end",
    text="SigLIP",
    tokens="64 or 81 a tile, 1 to 17 tiles",
    frame="64 or 81",
)
AYA_VISION = Family(
    name="Aya Vision",
    model_type="aya_vision",
    classes=("AyaVisionForConditionalGeneration", "AyaVisionModel"),
    hub=("CohereLabs/aya-vision-8b",),
    positions="original",
    turns=(COHERE, *PLAIN),
    tiled="end",
    text="SigLIP",
    tokens="169 a tile, 1 to 13 tiles",
)
COHERE2_VISION = Family(
    name="Command A Vision",
    model_type="cohere2_vision",
    classes=("Cohere2VisionForConditionalGeneration", "Cohere2VisionModel"),
    hub=("CohereLabs/command-a-vision-07-2025",),
    positions="original",
    turns=(COHERE, *PLAIN),
    tiled="begin",
    text="SigLIP",
    tokens="256 a tile, 1 to 13 tiles",
)
OVIS2 = Family(
    name="Ovis2",
    model_type="ovis2",
    classes=("Ovis2ForConditionalGeneration", "Ovis2Model"),
    hub=("thisisiron/Ovis2-1B-hf", "thisisiron/Ovis2-2B-hf"),
    positions="original",
    turns=(CHATML, *PLAIN),
    projector="",
    tiled="begin",
    tokens="256 a tile, 1 to 10 tiles",
)
CHAT: dict[str, Any] = {
    "positions": "original",
    "turns": (CHATML, *PLAIN),
}
LIGHTON_OCR = Family(
    name="LightOnOCR",
    model_type="lighton_ocr",
    classes=("LightOnOcrForConditionalGeneration", "LightOnOcrModel"),
    hub=("lightonai/LightOnOCR-1B-1025",),
    tower="vision_encoder",
    projector="vision_projection",
    square=False,
    tokens="by the picture's size",
    **CHAT,
)
DEEPSEEK_VL = Family(
    name="DeepSeek-VL",
    model_type="deepseek_vl",
    classes=("DeepseekVLForConditionalGeneration", "DeepseekVLModel"),
    hub=("deepseek-community/deepseek-vl-1.3b-chat",),
    positions="original",
    tower="vision_model",
    projector="aligner",
    tokens="576",
)
GOT_OCR2 = Family(
    name="GOT-OCR 2.0",
    model_type="got_ocr2",
    classes=("GotOcr2ForConditionalGeneration", "GotOcr2Model"),
    hub=("stepfun-ai/GOT-OCR-2.0-hf",),
    tiled="run",
    tokens="256 a tile, 1 to 13 tiles",
    **CHAT,
)
VIDEO_LLAMA_3 = Family(
    name="VideoLLaMA 3",
    model_type="video_llama_3",
    classes=("VideoLlama3ForConditionalGeneration", "VideoLlama3Model"),
    hub=("lkhl/VideoLLaMA3-2B-Image-HF",),
    tower="vision_model",
    projector="projector",
    video="tokens",
    grids=True,
    tokens="by the picture's size",
    frame="by its size; what repeats the frame before is left out by the processor",
    **CHAT,
)
GEMMA4 = Family(
    name="Gemma 4",
    model_type="gemma4",
    classes=("Gemma4ForConditionalGeneration", "Gemma4Model"),
    hub=("google/gemma-4-E2B-it",),
    positions="original",
    turns=(GEMMA, *PLAIN),
    projector="",
    video="tokens",
    grids=True,
    inside="layers of it read keys and values of others, and of each token a row of their own",
    tokens="up to 280, by the picture's shape",
    frame="up to 70, by its shape",
)
GEMMA4_UNIFIED = Family(
    name="Gemma 4 (unified)",
    model_type="gemma4_unified",
    classes=("Gemma4UnifiedForConditionalGeneration", "Gemma4UnifiedModel"),
    hub=("google/gemma-4-12B-it",),
    positions="original",
    turns=(GEMMA, *PLAIN),
    tower="embed_vision",
    projector="",
    video="tokens",
    grids=True,
    inside="it rotates queries and keys in a way that is not read here",
    tokens="up to 280, by the picture's shape",
    frame="up to 70, by its shape",
)
LFM2_VL = Family(
    name="LFM2-VL",
    model_type="lfm2_vl",
    classes=("Lfm2VlForConditionalGeneration", "Lfm2VlModel"),
    hub=("LiquidAI/LFM2-VL-1.6B",),
    tiled="near",
    grids=True,
    tokens="up to 256 a tile, 1 to 11 tiles",
    **CHAT,
)
QIANFAN_OCR = Family(
    name="Qianfan-OCR",
    model_type="qianfan_ocr",
    classes=("QianfanOCRForConditionalGeneration", "QianfanOCRModel"),
    hub=("baidu/Qianfan-OCR",),
    tiled="run",
    tokens="256 a tile, 1 to 13 tiles",
    **CHAT,
)
KIMI_K25 = Family(
    name="Kimi K2.5 and K2.6",
    model_type="kimi_k25",
    classes=("Kimi_K25ForConditionalGeneration", "Kimi_K25Model"),
    hub=("moonshotai/Kimi-K2.6",),
    positions="original",
    turns=(KIMI, *PLAIN),
    projector="mm_projector",
    grids=True,
    tokens="by the picture's size",
)
MOLMO2 = Family(
    name="Molmo 2",
    model_type="molmo2",
    classes=("Molmo2ForConditionalGeneration", "Molmo2Model"),
    hub=("allenai/Molmo2-8B",),
    video="marks",
    marks=("frame_start_token_id", "frame_end_token_id"),
    square=False,
    grids=True,
    tokens="by the picture's size",
    frame="81",
    **CHAT,
)
FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        LLAVA, VIPLLAVA, LLAVA_NEXT, LLAVA_ONEVISION, LLAVA_NEXT_VIDEO, QWEN2_VL, QWEN2_5_VL,
        QWEN3_VL, QWEN3_VL_MOE, QWEN3_5, QWEN3_5_MOE, INTERNVL, GEMMA3, PALIGEMMA, MISTRAL3,
        GLM4V, GLM4V_MOE, GLM46V, PERCEPTION_LM, IDEFICS3, SMOLVLM, AYA_VISION, COHERE2_VISION,
        OVIS2, LIGHTON_OCR, DEEPSEEK_VL, GOT_OCR2, VIDEO_LLAMA_3, GEMMA4, GEMMA4_UNIFIED,
        LFM2_VL, QIANFAN_OCR, KIMI_K25, MOLMO2,
    )
}  # fmt: skip


def patch_grid(
    family: Family, tokens: int, sizes: Sequence[int] | None = None, *, lines: bool = False
) -> tuple[int, int] | None:
    """Rows and columns of the tokens of a picture or frame, or None where they form no such grid.

    `sizes` are its patches in time, rows and columns, where the processor counts them. `lines`: a
    separator ends each line of patches.
    """
    if sizes is not None and family.grids:
        height, width = (int(size) for size in sizes[1:])
        side = math.isqrt(height * width // max(tokens, 1))
        rows, columns = height // max(side, 1), width // max(side, 1)
        return (rows, columns) if rows * columns == tokens else None
    if not family.square or family.grids or lines:
        return None
    rows = math.isqrt(tokens)
    return (rows, rows) if rows * rows == tokens else None


def family_facts() -> list[dict[str, Any]]:
    """One dictionary a family, for listings."""
    return [
        {
            "name": family.name,
            "model_type": family.model_type,
            "classes": list(family.classes),
            "images": True,
            "video": family.video != "no",
            "positions": family.positions,
            "text_tower": family.text,
            "serving": bool(family.vllm),
            "tokens": family.tokens,
            "tokens_a_frame": family.frame,
            "hub": list(family.hub),
            "status": ("pocket, " if family.model_type == "llava" else "") + "random weights",
        }
        for family in FAMILIES.values()
    ]
