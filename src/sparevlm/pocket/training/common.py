"""What both training stages share: batches, optimisers, the schedule, checkpoints, the log."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparevlm.pocket.model import MEAN, STD
from sparevlm.pocket.pictograms import NAMES, SIGN_NUMBERS, SIGN_WORDS
from sparevlm.pocket.scenes import (
    COLORS,
    GRID,
    IMAGE_SIZE,
    KINDS,
    PATCH_SIZE,
    SIGN,
    SIZES,
    Scene,
    Thing,
    draw_scene,
)

LOOKS = (*KINDS, *NAMES, *(f"{SIGN} {text}" for text in (*SIGN_WORDS, *SIGN_NUMBERS)))
BACKGROUND = len(LOOKS)
PALETTE = tuple(COLORS)
SIZE_NAMES = tuple(SIZES)


def _lean_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Plain attention in the dtype at hand: on a CPU its backward beats the fused one 2 to 1."""
    weights = torch.matmul(query * scaling, key.transpose(-1, -2))
    if attention_mask is not None:
        weights = weights + attention_mask.to(weights.dtype)
    weights = torch.softmax(weights, dim=-1, dtype=weights.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS["lean"] = _lean_attention


def pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 112, 112, 3] -> the normalised fp32 [B, 3, 112, 112] of the image processor."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return ((images.float() / 255.0 - mean) / std).permute(0, 3, 1, 2).contiguous()


def look(thing: Thing) -> str:
    """Its kind, and what it says if it is a sign."""
    return f"{SIGN} {thing.text}" if thing.kind == SIGN else thing.kind


def draw_some(first: int, count: int, rng: np.random.Generator, shares: dict) -> list[Scene]:
    """Scenes of `count` seeds, each of a kind drawn with these shares."""
    kinds = rng.choice(list(shares), count, p=list(shares.values()))
    return [draw_scene(first + i, str(kind)) for i, kind in enumerate(kinds)]


def grown(weight: torch.Tensor, new: torch.Tensor, old_words: dict, words: dict) -> torch.Tensor:
    """Word embeddings `new` with the rows of words that `weight` knows already."""
    with torch.no_grad():
        for word, row in words.items():
            if word in old_words:
                new[row] = weight[old_words[word]]
    return new


def patch_labels(scene: Scene) -> dict[str, np.ndarray]:
    """What lies under each of the 196 patches.

    kind, color, size: int64 [196], one class more than there are names for the background (and for
    the colour of pictograms); kind counts in `LOOKS`;
    middle: float32 [196], 1 where a thing has its centre; offset: float32 [196, 2], the centre
    (x, y) of the thing in image widths, or of the patch itself on the background.
    """
    owner = scene.owner.reshape(-1)
    kinds = [LOOKS.index(look(t)) for t in scene.things] + [BACKGROUND]
    colors = [(*PALETTE, "").index(t.color) for t in scene.things] + [len(PALETTE)]
    sizes = [SIZE_NAMES.index(t.size) for t in scene.things] + [len(SIZE_NAMES)]
    centres = np.array([(t.x, t.y) for t in scene.things] + [(0, 0)], np.float32) / IMAGE_SIZE
    rows, columns = np.divmod(np.arange(GRID * GRID), GRID)
    own = (np.stack([columns, rows], 1).astype(np.float32) + 0.5) / GRID
    middle = np.zeros(GRID * GRID, np.float32)
    for t in scene.things:
        middle[(t.y // PATCH_SIZE) * GRID + t.x // PATCH_SIZE] = 1.0
    return {
        "kind": np.array(kinds)[owner],
        "color": np.array(colors)[owner],
        "size": np.array(sizes)[owner],
        "middle": middle,
        "offset": np.where(owner[:, None] >= 0, centres[owner], own),
    }


def make_optimizers(module: nn.Module, lr: float, decay: float = 0.01) -> list:
    """Muon for the weight matrices of the layers, AdamW for everything else."""
    matrices, rest = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            inside = parameter.ndim == 2 and ".layers." in name
            (matrices if inside else rest).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=2 * lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=lr, weight_decay=decay, betas=(0.9, 0.98)),
    ]


def set_learning_rate(optimizers: list, base: list[float], done: float) -> float:
    """Warm up over 2 %, hold, and fall linearly to zero over the last 60 % of the run."""
    factor = min(done / 0.02, 1.0, (1.0 - done) / 0.6)
    for optimizer, lr in zip(optimizers, base, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr * max(factor, 0.0)
    return factor


class Log:
    """One JSON object a line, appended, so that a resumed run continues its own log."""

    def __init__(self, path: Path):
        self.path, self.start = path, time.time()

    def __call__(self, **values: Any) -> None:
        values["seconds"] = round(time.time() - self.start)
        line = json.dumps(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        )
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


def save_checkpoint(path: Path, step: int, module: nn.Module, optimizers: list) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "step": step,
            "module": module.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers],
        },
        partial,
    )
    os.replace(partial, path)


def load_checkpoint(path: Path, module: nn.Module, optimizers: list) -> int:
    """Restore what `save_checkpoint` wrote and return the step to go on from (0: nothing there)."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return int(state["step"])


class Batches(torch.utils.data.IterableDataset):
    """`make(step)` for every step from `first` on; each batch depends on its step alone."""

    def __init__(self, make, first: int, last: int):
        self.make, self.first, self.last = make, first, last

    def __iter__(self) -> Iterator:
        torch.set_num_threads(1)
        info = torch.utils.data.get_worker_info()
        offset, stride = (info.id, info.num_workers) if info else (0, 1)
        for step in range(self.first + offset, self.last, stride):
            yield self.make(step)


def loader(make, first: int, last: int, workers: int = 1) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(
        Batches(make, first, last), batch_size=None, num_workers=workers, prefetch_factor=8
    )


@dataclass(frozen=True)
class Plan:
    """How long to train: `steps` in all, checkpoints `every` so many; `stop` ends a run earlier."""

    steps: int
    batch: int
    lr: float
    stop: int
    every: int


def fit(
    module: nn.Module,
    out: Path,
    name: str,
    make: Callable[[int], dict[str, torch.Tensor]],
    plan: Plan,
    checked: Callable[[int, Log], None] = lambda step, log: None,
) -> bool:
    """Train `module(batch) -> (loss, report)`, going on from `name`.pt where there is one.

    Writes a checkpoint and calls `checked(step, log)` now and then and at the end; logs to
    `name`.jsonl. Returns whether this call did the last step of the plan.
    """
    steps, stop = plan.steps, plan.stop
    optimizers = make_optimizers(module, plan.lr)
    base = [group["lr"] for o in optimizers for group in o.param_groups]
    log = Log(out / f"{name}.jsonl")
    first = load_checkpoint(out / f"{name}.pt", module, optimizers)
    mean: dict[str, float] = {}
    for step, data in enumerate(loader(make, first, min(steps, stop)), first):
        set_learning_rate(optimizers, base, (step + 1) / steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss, report = module(data)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for what, value in report.items():
            mean[what] = 0.98 * mean.get(what, value) + 0.02 * value
        if (step + 1) % 100 == 0 or step + 1 in (steps, stop):
            log(step=step + 1, pictures=(step + 1) * plan.batch, **mean)
        if (step + 1) % plan.every == 0 or step + 1 in (steps, stop):
            save_checkpoint(out / f"{name}.pt", step + 1, module, optimizers)
            checked(step + 1, log)
    return first < steps <= stop
