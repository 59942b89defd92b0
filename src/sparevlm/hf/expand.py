"""Beams and several answers with features that are one tensor, on transformers 5.18.

There the rows of such a tensor are repeated one by one, which mixes up the tokens of a prompt;
later versions repeat them prompt by prompt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling


@contextmanager
def grouped_expansion(model: Any, kwargs: dict[str, Any]) -> Iterator[None]:
    """Repeat the features of a `generate` call prompt by prompt, where stock code would not."""
    outputs = kwargs.get("mm_encoder_outputs") or {}
    tensors = any(isinstance(out.pooler_output, Tensor) for out in outputs.values())
    if not tensors or not _mixes_up(model):
        yield
        return
    model._expand_multimodal_outputs = lambda *args, **options: _expand(model, *args, **options)
    try:
        yield
    finally:
        del model._expand_multimodal_outputs


def _mixes_up(model: Any) -> bool:
    image = model.config.image_token_id
    two = BaseModelOutputWithPooling(pooler_output=torch.tensor([[[0.0]], [[1.0]]]))
    ids = torch.tensor([[image, image]])
    found = model._expand_multimodal_outputs(ids, {"image": two}, expand_size=2)
    repeated: list[float] = found["image"].pooler_output.flatten().tolist()
    return repeated != [0, 1, 0, 1]


def _expand(
    model: Any,
    input_ids: Tensor,
    mm_encoder_output: dict[str, Any],
    expand_size: int = 1,
    inputs_embeds: Tensor | None = None,
) -> dict[str, Any]:
    expanded = dict(mm_encoder_output)
    for modality, output in mm_encoder_output.items():
        marks = input_ids == getattr(model.config, f"{modality}_token_id")
        rows = output.pooler_output.flatten(0, -2)
        groups = rows.split(marks.sum(1).tolist())
        expanded[modality] = copy.copy(output)
        expanded[modality].pooler_output = torch.cat(
            [group for group in groups for _ in range(expand_size)]
        )[:, None]
    return expanded
