"""Pruning inside stock vLLM: a plugin that vLLM finds by its entry point, off unless asked for."""

# Kept apart from the classes so that registering imports neither torch nor vLLM's models.
FAMILIES = {
    "LlavaForConditionalGeneration": "PrunedLlava",
    "LlavaNextForConditionalGeneration": "PrunedLlavaNext",
    "LlavaOnevisionForConditionalGeneration": "PrunedLlavaOnevision",
    "Qwen2VLForConditionalGeneration": "PrunedQwen2VL",
    "Qwen2_5_VLForConditionalGeneration": "PrunedQwen2_5_VL",
    "Qwen3VLForConditionalGeneration": "PrunedQwen3VL",
    "InternVLForConditionalGeneration": "PrunedInternVL",
}


def register() -> None:
    """Put our model classes in the places of vLLM's own; called in each of its processes.

    Checkpoints and commands stay the same, and without a `keep` nothing is pruned.
    """
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    from sparevlm.serving.config import PruningConfig
    from sparevlm.serving.metrics import begin

    begin()
    for architecture, name in FAMILIES.items():
        ModelRegistry.register_model(architecture, f"sparevlm.serving.models:{name}")
        MODELS_CONFIG_MAP[architecture] = PruningConfig
