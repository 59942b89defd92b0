"""The vision tower of an ONNX file as transformers' `Dinov2Model`, and the tokens it gives."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOLERANCE = 1e-3  # of the longest token; fp32 in two programs, twelve layers deep

RENAMED = {  # the exporter's transformers was older
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def state_of(arrays: Mapping[str, np.ndarray], users: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of a `Dinov2Model` out of the constants of an ONNX graph.

    Parameters
    ----------
    arrays : mapping
        Name of a constant -> value. The exporter kept names but of matrices, which it also
        transposed, and of position embeddings, which it cut in two.
    users : mapping
        Name of a constant -> name of the node that reads it.

    Raises
    ------
    ValueError
        If there are not exactly two parts of position embeddings.
    """
    state, positions = {}, []
    for name, array in arrays.items():
        value, user = torch.from_numpy(np.array(array)), users.get(name, "")
        if name.startswith("backbone."):
            state[_renamed(name.removeprefix("backbone."))] = value
        elif match := re.fullmatch(r"/backbone/(.*)/MatMul", user):
            state[_renamed(match[1].replace("/", ".") + ".weight")] = value.T.contiguous()
        elif user.startswith("/backbone/embeddings/") and value.ndim == 3:
            positions.append(value)
    if len(positions) != 2:
        raise ValueError(f"{len(positions)} parts of position embeddings, not 2")
    state["embeddings.position_embeddings"] = torch.cat(sorted(positions, key=_rows), dim=1)
    return state


def _rows(part: Tensor) -> int:
    return part.shape[1]


def _renamed(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def rebuilt(folder: Path) -> tuple[Dinov2Model, float]:
    """The tower of what `outside.py` wrote, and how far it is from the ONNX, checked.

    Raises
    ------
    RuntimeError
        If weights are missing or left over, or tokens differ by more than `TOLERANCE`.
    """
    users = json.loads((folder / "users.json").read_text())
    with np.load(folder / "weights.npz") as arrays:
        state = state_of(dict(arrays), users)
    config = Dinov2Config(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14
    )
    tower = Dinov2Model(config).eval()
    state["embeddings.mask_token"] = torch.zeros(1, 384)  # for training alone; the graph has none
    tower.load_state_dict(state)
    with np.load(folder / "check.npz") as check, torch.inference_mode():
        theirs = torch.from_numpy(check["tokens"])
        ours = tower(torch.from_numpy(check["pixels"])).last_hidden_state
    apart = float((ours - theirs).norm(dim=-1).max() / theirs.norm(dim=-1).max())
    if not apart < TOLERANCE:
        raise RuntimeError(f"the rebuilt tower is {apart:.1e} away from the ONNX: nothing is said")
    return tower, apart


@torch.inference_mode()
def tokens_of(tower: Dinov2Model, crops: np.ndarray) -> tuple[list[Tensor], list[Tensor]]:
    """Patch tokens [N, D] of each crop: behind the last norm, and one layer before the last."""
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    last, before = [], []
    for crop in crops:
        pixels = (torch.from_numpy(crop).permute(2, 0, 1).float() / 255 - mean) / std
        out = tower(pixels[None], output_hidden_states=True)
        last.append(out.last_hidden_state[0, 1:].clone())
        before.append(out.hidden_states[-2][0, 1:].clone())
    return last, before
