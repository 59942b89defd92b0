"""python -m bench.serving.own_pruning: vLLM's server, its own pruning of videos on a CPU too.

vLLM 0.32's CPU runner loads the model by a method of its own, which leaves out what the GPU's sets
for this pruning, and the engine ends at the first video. It is set here, in each process: those
that are spawned import this module again.
"""

from __future__ import annotations

import runpy
from typing import Any

from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from bench.serving.server import MODULE

_load = CPUModelRunner.load_model


def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
    """See `CPUModelRunner`."""
    _load(self, *args, **kwargs)
    self.is_multimodal_pruning_enabled = bool(
        self.model_config.multimodal_config.is_multimodal_pruning_enabled()
    )


CPUModelRunner.load_model = load_model

if __name__ == "__main__":
    runpy.run_module(MODULE, run_name="__main__")
