"""The slow way: embed text and chosen rows, and call the language model on them alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def features_of(model: Any, pixel_values: Tensor) -> list[Tensor]:
    """Visual tokens of each picture, by the layers themselves."""
    states = model.model.vision_tower(pixel_values, output_hidden_states=True).hidden_states
    patches = states[model.config.vision_feature_layer][:, 1:]
    return list(model.model.multi_modal_projector(patches))


def embed_row(
    model: Any, ids: list[int], features: list[Tensor], kept: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Embeddings [L', D] of one prompt with the kept rows alone, and the columns [L'] they are."""
    table, image = model.get_input_embeddings().weight, model.config.image_token_id
    rows, columns = [], []
    picture, patch = 0, 0
    for column, token in enumerate(ids):
        if token != image:
            rows.append(table[token])
            columns.append(column)
            continue
        if patch in kept[picture].tolist():
            rows.append(features[picture][patch])
            columns.append(column)
        patch += 1
        if patch == len(features[picture]):
            picture, patch = picture + 1, 0
    return torch.stack(rows), torch.tensor(columns)


@torch.no_grad()
def logits_of(model: Any, rows: Tensor, positions: Tensor | None = None) -> Tensor:
    """Logits [L', V] of embeddings [L', D], without cache."""
    hidden = model.model.language_model(
        inputs_embeds=rows[None],
        attention_mask=torch.ones(1, len(rows), dtype=torch.long),
        position_ids=None if positions is None else positions[None],
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden)[0]


@torch.no_grad()
def greedy(model: Any, rows: Tensor, columns: Tensor, steps: int, *, original: bool) -> list[int]:
    """Greedy answer to one prompt, recomputed from the start for every token."""
    answer: list[int] = []
    table, eos = model.get_input_embeddings().weight, model.generation_config.eos_token_id
    last = int(columns[-1])
    for _ in range(steps):
        logits = logits_of(model, rows, columns if original else None)
        answer.append(int(logits[-1].argmax()))
        if answer[-1] == eos:
            break
        rows = torch.cat([rows, table[answer[-1]][None]])
        last += 1
        columns = torch.cat([columns, torch.tensor([last])])
    return answer
