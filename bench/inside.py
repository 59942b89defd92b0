"""Dropping inside the decoder against masking the same tokens, on a random LLaVA of 300 M.

    python -m bench.inside [--methods fastv,pyramiddrop] [--keep 0.4]

Prefill in bfloat16 with SDPA: milliseconds (medians of rounds that go through all forms) and the
peak of what tensors hold beside the weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

from bench.masked import layers_of, masking
from bench.serving.model import config
from sparevlm.methods import get_method
from sparevlm.methods.in_decoder import averaged
from sparevlm.pocket.model import make_tokenizer
from sparevlm.speed.memory import peak_bytes
from sparevlm.speed.models import Subject

ROUNDS = 7
WORDS = 64

Form = Callable[[], AbstractContextManager[Any]]


def subject() -> Subject:
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config(make_tokenizer())).to(torch.bfloat16).eval()
    crop = {"height": 336, "width": 336}
    images = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=crop)
    return Subject("300 M", model, images, (336, 336), {"relevance": "llm"})


@torch.no_grad()
def decisions(model: Any, method: Any, inputs: dict[str, Tensor]) -> dict[int, list[Tensor]]:
    """Columns that the method drops at each layer, a list a layer with one entry a prompt."""
    with method(model) as handle:
        model(**inputs, use_cache=True, logits_to_keep=1)
        report = handle.report
    dropped: dict[int, list[Tensor]] = {}
    for row, picture in enumerate(report):
        columns = (inputs["input_ids"][row] == model.config.image_token_id).nonzero()[:, 0]
        for at, kept in picture.stages.items():
            gone = ~torch.isin(torch.arange(len(columns)), kept)
            dropped.setdefault(at, []).append(columns[gone])
    return dropped


@torch.no_grad()
def measure(model: Any, inputs: dict[str, Tensor], forms: dict[str, Form]) -> dict[str, Any]:
    def prefill() -> float:
        start = time.perf_counter()
        model(**inputs, use_cache=True, logits_to_keep=1)
        return 1e3 * (time.perf_counter() - start)

    times: dict[str, list[float]] = {name: [] for name in forms}
    peaks = {}
    for name, form in forms.items():
        with form(), peak_bytes(model.device, *model.parameters(), *model.buffers()) as peak:
            prefill()  # warms up too
        peaks[name] = peak[0]
    for _ in range(ROUNDS):
        for name, form in forms.items():
            with form():
                times[name].append(prefill())
    return {name: (statistics.median(times[name]), peaks[name]) for name in forms}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", default="fastv,pyramiddrop")
    parser.add_argument("--keep", type=float, default=0.4, help="share, on average over layers")
    asked = parser.parse_args()
    made = subject()
    model, inputs = made.model, made.inputs(1, WORDS)
    forms: dict[str, Form] = {"all tokens": nullcontext}
    notes = {}
    count = len(layers_of(model))
    for name in asked.methods.split(","):
        method = get_method(name, asked.keep)
        dropped = decisions(model, method, inputs)
        schedule = method.schedule(count, 576)
        notes[name] = f"{averaged(schedule, count, 576):.0f} on average: {schedule}"
        forms[f"{name}, dropped"] = lambda method=method: method(model)
        forms[f"{name}, masked"] = lambda dropped=dropped: masking(model, dropped)
    print(f"{'form':<24} prefill ms   peak MB")
    for name, (milliseconds, peak) in measure(model, inputs, forms).items():
        print(f"{name:<24} {milliseconds:>10.1f} {peak / 1e6:>9.1f}")
    for name, note in notes.items():
        print(f"{name}: {note}")


if __name__ == "__main__":
    main()
