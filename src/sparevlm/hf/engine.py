"""Hugging Face transformers as an engine, see `sparevlm.engine`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from sparevlm.engine import Attachment, Engine
from sparevlm.hf.attach import attach
from sparevlm.hf.prune import prune_inputs


class _Transformers:
    """Runs models of transformers."""

    def takes(self, model: Any) -> bool:
        return isinstance(model, PreTrainedModel)

    def attach(self, method: Any, model: Any, **options: Any) -> Attachment:
        return attach(method, model, **options)

    def prune_inputs(
        self, method: Any, model: Any, inputs: Mapping[str, Any], **options: Any
    ) -> dict[str, Any]:
        return prune_inputs(method, model, inputs, **options)


ENGINE: Engine = _Transformers()
