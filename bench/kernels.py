"""Milliseconds of select(X, k) on a GPU, beside the product it needs and the published loops.

    python -m bench.kernels --out out/kernels.json

Medians over rounds that go through all of them; each is timed with CUDA events after a warm-up, so
that a call's launches count as they do in use. `graph`: the same call replayed from a CUDA graph.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.published_loops import cdpruner, divprune
from sparevlm import DivPrune, VisualTokens
from sparevlm.selection import select

# images, tokens, features, kept, and milliseconds it may take
SHAPES = [
    (1, 576, 4096, 64, 0.20),
    (32, 576, 4096, 64, 1.5),
    (1, 2880, 4096, 160, 1.0),
    (1, 576, 4096, 192, None),
    (8, 576, 4096, 64, None),
]
ROUNDS = 50


def milliseconds(call: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure(shape: tuple[int, int, int, int, float | None], dtype: torch.dtype) -> dict[str, Any]:
    images, n, d, k, target = shape
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(images, n, d, generator=generator, device="cuda").to(dtype)
    w = torch.rand(images, n, generator=generator, device="cuda")
    calls: dict[str, Callable[[], object]] = {
        "select": lambda: select(x, k),
        "weighted": lambda: select(x, k, weights=w),
        "product": lambda: torch.bmm(x, x.mT),
    }
    calls["graph"] = graphed(calls["select"])
    if images == 1:
        ours, seen = DivPrune(keep=k), VisualTokens(x[0])
        calls["divprune"] = lambda: ours.reduce(seen)
        calls["cdpruner loop"] = lambda: cdpruner(x[0], w[0], k)
        calls["divprune loop"] = lambda: divprune(x[0], k)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(5):
            call()
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
    exact = select(x[:1].cpu().double(), k).order
    found = {name: statistics.median(values) for name, values in times.items()}
    return {
        "images": images, "n": n, "d": d, "k": k, "dtype": str(dtype).removeprefix("torch."),
        "target": target, "met": None if target is None else found["select"] <= target,
        "ms": found, "same_as_cpu": bool((select(x[:1], k).order.cpu() == exact).all()),
        "spread": {name: [min(values), max(values)] for name, values in times.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    rows = [measure(shape, dtype) for dtype in (torch.bfloat16, torch.float32) for shape in SHAPES]
    about = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "rounds": ROUNDS}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    for row in rows:
        times = "  ".join(f"{name} {value:.3f}" for name, value in row["ms"].items())
        verdict = {None: "", True: "  met", False: "  NOT MET"}[row["met"]]
        print(
            f"{row['images']} x {row['n']} x {row['d']}, k {row['k']}, {row['dtype']}: {times}"
            f"{verdict}{'' if row['same_as_cpu'] else '  PICKS DIFFER FROM THE CPU'}"
        )


if __name__ == "__main__":
    main()
