"""Pruning inside stock vLLM: a plugin that vLLM finds by its entry point, off unless asked for."""

from sparevlm.families import FAMILIES

# vLLM's class -> ours. Registering imports neither torch nor vLLM's models.
CLASSES = {family.classes[0]: family.vllm for family in FAMILIES.values() if family.vllm}


def register() -> None:
    """Put our model classes in the places of vLLM's own; called in each of its processes.

    Checkpoints and commands stay the same, and without a `keep` nothing is pruned. In a vLLM that
    lacks what they rely on vLLM's own stay, and a `keep` is refused.

    Raises
    ------
    ImportError
        If not even that is possible.
    """
    from sparevlm.serving.metrics import begin
    from sparevlm.serving.tested import refusal

    why = refusal()
    try:
        from vllm import ModelRegistry
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP

        from sparevlm.serving.config import PruningConfig
    except ImportError as error:
        raise ImportError(f"{why or error} (VLLM_PLUGINS without sparevlm leaves it out)") from None
    begin()
    for architecture, name in CLASSES.items():
        if not why:
            ModelRegistry.register_model(architecture, f"sparevlm.serving.models:{name}")
        MODELS_CONFIG_MAP[architecture] = PruningConfig
