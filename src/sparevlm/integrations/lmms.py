"""Entry point for lmms-eval: names the model, and imports nothing of lmms-eval before that."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """The model "sparevlm", for the entry point group lmms_eval.models."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("sparevlm", chat_class_path="sparevlm.integrations.lmms_model.SpareVLM")
