"""Positions after a video, as vLLM has them for Qwen2-VL and Qwen2.5-VL, in transformers.

What follows a video stands after its last moment in vLLM, as in these models' own code. In
transformers 5 it stands after as many positions as a frame has rows or columns, so that of a longer
video it lies among the video's own (findings/qwen_text_among_the_times_of_a_video.sh).
"""

from __future__ import annotations

import functools
from itertools import groupby
from typing import Any

VIDEO = 2  # in mm_token_type_ids


def after_videos(model: Any) -> None:
    """Place what follows a video as vLLM does; prompts one by one."""
    base = model.base_model
    if model.config.model_type not in ("qwen2_vl", "qwen2_5_vl"):
        return
    stock = base.get_rope_index

    @functools.wraps(stock)
    def get_rope_index(input_ids: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        positions, _ = stock(input_ids, *args, **kwargs)
        kinds = kwargs["mm_token_type_ids"][0].tolist()
        done = 0
        for kind, run in groupby(kinds):
            first, done = done, done + len(list(run))
            if kind == VIDEO and done < len(kinds):
                ahead = positions[:, 0, first:done].max() + 1 - positions[0, 0, done]
                positions[:, 0, done:] += ahead.clamp(min=0)
        return positions, positions.amax((0, 2))[:, None] + 1 - len(kinds)

    base.get_rope_index = get_rope_index
