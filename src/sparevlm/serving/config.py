"""The start of a server: settings are checked before a process is started or a weight is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from vllm.config import CUDAGraphMode
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from sparevlm.serving.settings import KEY, Settings, from_environment, read_settings
from sparevlm.serving.tested import refusal, say

log = logging.getLogger("vllm.sparevlm")
# Attributes of the Hugging Face configuration, which all processes get.
_BLOCKED = f"{KEY}_blocked"
_PLACES = f"{KEY}_places"
_CAPTURED = (
    "CUDA graphs of the vision encoder would go past the pruning: start the server with a budget, "
    "which switches them off, or without cudagraph_mm_encoder"
)
_WORDS_ALONE = ("ngram", "ngram_gpu", "suffix")  # drafts that no model makes need no positions


def positions_of(model_config: Any) -> tuple[str, ...]:
    """The positions that kept tokens can have on this server; the first is the better one."""
    config = model_config.hf_config
    if getattr(config, _PLACES, False):
        return ("original", "compact")
    return ("original",) if model_config.uses_mrope else ("compact",)


def settings_for(model_config: Any, request: Mapping[str, Any]) -> Settings | None:
    """What holds for a request with these mm_processor_kwargs; None: nothing is pruned.

    The request goes before the server's --mm-processor-kwargs, these before --hf-overrides, and
    all of them before the environment.

    Raises
    ------
    ValueError
        If it is wrong, or this server cannot do it; the message says how to put it right.
    """
    return _settings(model_config, request, positions_of(model_config))


def _settings(
    model_config: Any, request: Mapping[str, Any], positions: tuple[str, ...]
) -> Settings | None:
    server = model_config.multimodal_config.mm_processor_kwargs or {}
    settings = read_settings(
        request.get(KEY),
        server.get(KEY),
        getattr(model_config.hf_config, KEY, None),
        from_environment(),
        positions=positions,
    )
    blocked = getattr(model_config.hf_config, _BLOCKED, "")
    if settings is not None and blocked:
        raise ValueError(f"{KEY}: {blocked}")
    return settings


class PruningConfig(VerifyAndUpdateConfig):
    """Hook that vLLM calls with the whole configuration of a server or `LLM`."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Notes what stands in the way of pruning, and ends the start where it is asked for."""
        why = refusal()
        if why:
            _refuse(vllm_config, why)
            return
        say()
        model_config = vllm_config.model_config
        if model_config.multimodal_config is None:
            return
        config = model_config.hf_config
        line = not model_config.uses_mrope
        setattr(config, _BLOCKED, _obstacle(vllm_config))
        barred = _barred(vllm_config)
        if line and not barred:
            possible: tuple[str, ...] = ("original", "compact")
        elif line:
            possible = ("compact",)
        else:
            setattr(config, _BLOCKED, getattr(config, _BLOCKED) or barred)
            possible = ("original",)
        settings = _settings(model_config, {}, possible)
        if settings is None:
            if getattr(vllm_config.compilation_config, "cudagraph_mm_encoder", False):
                setattr(config, _BLOCKED, getattr(config, _BLOCKED) or _CAPTURED)
            return
        # A captured encoder would go past the pruning.
        vllm_config.compilation_config.cudagraph_mm_encoder = False
        if line and not barred and settings.method.positions != "compact":
            # The runner asks such a model for the position of each token. Its language model has
            # a configuration of its own, and is none the wiser.
            config.mrope_section = [1, 1, 1]
            setattr(config, _PLACES, True)


def _refuse(config: Any, why: str) -> None:
    """Refuse what is asked for in a vLLM of which little is known."""
    model = getattr(config, "model_config", None)
    server = getattr(getattr(model, "multimodal_config", None), "mm_processor_kwargs", None) or {}
    overridden = getattr(getattr(model, "hf_config", None), KEY, None)
    if from_environment() or KEY in server or overridden is not None:
        raise ValueError(f"{KEY}: {why}")
    log.warning("pictures stay whole, whatever a request asks for: %s", why)


def _obstacle(config: Any) -> str:
    """Why nothing can be pruned; "" if nothing stands in the way."""
    if config.model_config.multimodal_config.is_multimodal_pruning_enabled():
        return (
            "vLLM's own pruning of videos and this one do not go together: remove "
            "--video-pruning-rate, or the setting"
        )
    vision = getattr(config.model_config.hf_config, "vision_config", None)
    if getattr(vision, "model_type", "") == "pixtral":
        return "Pixtral's rows of patches end with marks that no pruned picture has: use another"
    if config.lora_config is not None and config.lora_config.enable_tower_connector_lora:
        return (
            "vLLM lays adapters of the vision tower out for the tokens that are kept, where the "
            "tower has all of them: remove --enable-tower-connector-lora, or do without pruning"
        )
    return ""


def _barred(config: Any) -> str:
    """Why kept tokens cannot keep their positions; "" if they can."""
    drafts = config.speculative_config
    if drafts is not None and drafts.method not in _WORDS_ALONE:
        return (
            "a draft model does not know where kept tokens lie: remove --speculative-config, or "
            'draft from the words so far with its "method": "ngram"'
        )
    if config.parallel_config.pipeline_parallel_size > 1:
        return (
            "only the first pipeline stage knows where kept tokens lie: use "
            "--tensor-parallel-size instead of --pipeline-parallel-size"
        )
    mode = config.compilation_config.cudagraph_mode
    if mode is not None and mode.mixed_mode() == CUDAGraphMode.FULL:
        return (
            "full CUDA graphs of the prefill would go past the places of kept tokens: use "
            '--compilation-config \'{"cudagraph_mode": "FULL_AND_PIECEWISE"}\''
        )
    return ""
