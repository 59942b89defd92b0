"""vLLM's model classes with pruning: each stock class, a mixin or two, and facts."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models import interns1, llava, llava_next, llava_onevision
from vllm.model_executor.models import qwen2_5_vl as qwen25
from vllm.model_executor.models import qwen2_vl as qwen2
from vllm.model_executor.models import qwen3_vl as qwen3
from vllm.multimodal import MULTIMODAL_REGISTRY

from sparevlm.serving.places import OnGrid, OnLine
from sparevlm.serving.processing import PruningInfo, PruningProcessor


class LlavaInfo(PruningInfo, llava.LlavaProcessingInfo):
    """Stock, with pruning."""


class LlavaProcessor(PruningProcessor, llava.LlavaMultiModalProcessor):
    """Stock, with pruning."""


def _llava_info(ctx: Any) -> Any:
    """Pixtral under LLaVA's name stays stock."""
    stock = llava._build_llava_or_pixtral_hf_info(ctx)
    return LlavaInfo(ctx) if type(stock) is llava.LlavaProcessingInfo else stock


def _llava_processor(info: Any, dummy_inputs: Any, **options: Any) -> Any:
    if isinstance(info, LlavaInfo):
        return LlavaProcessor(info, dummy_inputs, **options)
    return llava._build_llava_or_pixtral_hf_processor(info, dummy_inputs, **options)


@MULTIMODAL_REGISTRY.register_processor(
    _llava_processor, info=_llava_info, dummy_inputs=llava.LlavaDummyInputsBuilder
)
class PrunedLlava(OnLine, llava.LlavaForConditionalGeneration):
    """LLaVA-1.5 and LLaVA-Interleave."""

    one_grid = True


class LlavaNextInfo(PruningInfo, llava_next.LlavaNextProcessingInfo):
    """Stock, with pruning."""

    def separators(self, width: int, height: int) -> int:
        """See `PruningInfo`: one ends each line of patches."""
        config, encoder = self.get_hf_config(), self.get_vision_encoder_info()
        rows, columns = llava_next.get_anyres_image_grid_shape(
            image_size=(height, width),
            grid_pinpoints=config.image_grid_pinpoints,
            patch_size=encoder.get_image_size(),
        )
        return self._get_num_unpadded_features(
            original_height=height,
            original_width=width,
            npatches=encoder.get_patch_grid_length(),
            num_patch_height=rows,
            num_patch_width=columns,
        )[1]


class LlavaNextProcessor(PruningProcessor, llava_next.LlavaNextMultiModalProcessor):
    """Stock, with pruning."""


@MULTIMODAL_REGISTRY.register_processor(
    LlavaNextProcessor, info=LlavaNextInfo, dummy_inputs=llava.LlavaDummyInputsBuilder
)
class PrunedLlavaNext(OnLine, llava_next.LlavaNextForConditionalGeneration):
    """LLaVA-NeXT."""


class LlavaOnevisionInfo(LlavaNextInfo, llava_onevision.LlavaOnevisionProcessingInfo):
    """Stock, with pruning."""

    video_separators = 1  # at the end of each


class LlavaOnevisionProcessor(PruningProcessor, llava_onevision.LlavaOnevisionMultiModalProcessor):
    """Stock, with pruning."""


@MULTIMODAL_REGISTRY.register_processor(
    LlavaOnevisionProcessor,
    info=LlavaOnevisionInfo,
    dummy_inputs=llava_onevision.LlavaOnevisionDummyInputsBuilder,
)
class PrunedLlavaOnevision(OnLine, llava_onevision.LlavaOnevisionForConditionalGeneration):
    """LLaVA-OneVision."""


class Qwen2VLInfo(PruningInfo, qwen2.Qwen2VLProcessingInfo):
    """Stock, with pruning."""


class Qwen2VLProcessor(PruningProcessor, qwen2.Qwen2VLMultiModalProcessor):
    """Stock, with pruning."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLProcessor, info=Qwen2VLInfo, dummy_inputs=qwen2.Qwen2VLDummyInputsBuilder
)
class PrunedQwen2VL(OnGrid, qwen2.Qwen2VLForConditionalGeneration):
    """Qwen2-VL."""


class Qwen2_5_VLInfo(PruningInfo, qwen25.Qwen2_5_VLProcessingInfo):
    """Stock, with pruning."""


class Qwen2_5_VLProcessor(PruningProcessor, qwen25.Qwen2_5_VLMultiModalProcessor):
    """Stock, with pruning."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2_5_VLProcessor, info=Qwen2_5_VLInfo, dummy_inputs=qwen25.Qwen2_5_VLDummyInputsBuilder
)
class PrunedQwen2_5_VL(OnGrid, qwen25.Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL."""


class Qwen3VLInfo(PruningInfo, qwen3.Qwen3VLProcessingInfo):
    """Stock, with pruning."""


class Qwen3VLProcessor(PruningProcessor, qwen3.Qwen3VLMultiModalProcessor):
    """Stock, with pruning."""


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLProcessor, info=Qwen3VLInfo, dummy_inputs=qwen3.Qwen3VLDummyInputsBuilder
)
class PrunedQwen3VL(OnGrid, qwen3.Qwen3VLForConditionalGeneration):
    """Qwen3-VL."""


class InternVLInfo(PruningInfo, interns1.InternS1ProcessingInfo):
    """Stock, with pruning."""


class InternVLProcessor(PruningProcessor, interns1.InternS1MultiModalProcessor):
    """Stock, with pruning."""


@MULTIMODAL_REGISTRY.register_processor(
    InternVLProcessor, info=InternVLInfo, dummy_inputs=interns1.InternS1DummyInputsBuilder
)
class PrunedInternVL(OnLine, interns1.InternS1ForConditionalGeneration):
    """InternVL in its Hugging Face form."""
