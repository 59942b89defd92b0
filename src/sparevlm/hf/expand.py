"""Beams and several answers: features repeated prompt by prompt, where stock code would not.

transformers 5.18 repeats features one by one, which mixes up the tokens, or pictures, of a prompt.
And for GLM no version finds the placeholders of a video, which are those of
pictures, or keeps the pictures of a prompt together.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sparevlm.families import Family
from sparevlm.hf import stock
from sparevlm.hf.media import MODALITIES, token_types


def group_expansion(model: Any, family: Family) -> bool:
    """Have the features of `generate` calls repeated prompt by prompt, where stock does otherwise.

    Once for all calls: threads share the model. Returns whether `stock.reset_expansion` is due.
    """
    if not stock.expands(model) or (family.video != "marks" and not _mixes_up(model)):
        return False

    def expand(
        input_ids: Tensor,
        mm_encoder_output: dict[str, Any],
        expand_size: int = 1,
        inputs_embeds: Tensor | None = None,
    ) -> dict[str, Any]:
        types = token_types(family, model, input_ids)
        return _expand(types, mm_encoder_output, expand_size)

    stock.set_expansion(model, expand)
    return True


def _mixes_up(model: Any) -> bool:
    image = model.config.image_token_id
    two = BaseModelOutputWithPooling()
    stock.set_features(two, torch.tensor([[[0.0]], [[1.0]]]))
    ids = torch.tensor([[image, image]])
    outputs = stock.expanded(model, ids, {"image": two}, 2)
    repeated: list[float] = stock.features_of(outputs["image"]).flatten().tolist()
    return repeated != [0, 1, 0, 1]


def _expand(types: Tensor, outputs: dict[str, Any], times: int) -> dict[str, Any]:
    expanded = dict(outputs)
    for modality in MODALITIES:
        if modality.name not in outputs:
            continue
        output = expanded[modality.name] = copy.copy(outputs[modality.name])
        counts = (types == modality.code).sum(1).tolist()
        features = stock.features_of(output)
        rows = _by_prompt(_flat(features), counts, times)
        one = isinstance(features, Tensor)
        stock.set_features(output, torch.cat(rows)[:, None] if one else rows)
        levels = stock.deeper_features(output)
        if levels:
            deeper = [_by_prompt(_flat(level), counts, times) for level in levels]
            stock.set_deeper_features(
                output,
                [
                    torch.cat(rows) if isinstance(level, Tensor) else rows
                    for level, rows in zip(levels, deeper, strict=True)
                ],
            )
    return expanded


def _by_prompt(rows: Tensor, counts: list[int], times: int) -> list[Tensor]:
    """The rows of each prompt, `times` times one after the other; prompts without any left out."""
    return [part for part in rows.split(counts) if len(part) for _ in range(times)]


def _flat(features: Any) -> Tensor:
    """Rows [N, D] of features that are one tensor, or a list with one for each picture or video."""
    parts = [features] if isinstance(features, Tensor) else features
    return torch.cat([part.flatten(0, -2) for part in parts])
