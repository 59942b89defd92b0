"""python -m bench.serving --out out/serving [--videos] [--model DIR] [--rates 1:0.1,4:0.2,...]

Starts one vLLM server for each budget in turn, sends it the same requests, and writes results.json
and table.md. Repeats go round all budgets, so that what else the machine does disturbs all alike.
With --videos each request has a video of 32 frames, and vLLM's own pruning (EVS) runs beside ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.serving.load import Asked, make_requests, run
from bench.serving.model import save
from bench.serving.server import MODULE, Server, serving
from bench.serving.video_model import save as save_video_model

TOKENS = 576
RATES = "1:0.4,4:0.8,16:1.2,64:2"  # at most so many at once : requests a second
RATES_OF_VIDEOS = "1:0.2,4:0.4,16:0.8"
KIND = ["--dtype", "bfloat16", "--max-model-len", "2048", "--max-num-seqs", "64"]


@dataclass(frozen=True)
class Budget:
    """How a server prunes: settings of sparevlm (None: not at all), options and module of vLLM."""

    settings: dict[str, Any] | None = None
    options: tuple[str, ...] = ()
    module: str = MODULE


SHARE = 0.111
PICTURES = {
    "full": Budget(),
    "33 %": Budget({"keep": 192}),
    "11 %": Budget({"keep": 64}),
    "5.6 %": Budget({"keep": 32}),
}
VIDEOS = {
    "full": Budget(),
    "EVS, 11.1 %": Budget(
        options=("--video-pruning-rate", str(1 - SHARE)), module="bench.serving.own_pruning"
    ),
    "SPARE, 11.1 % of each step": Budget({"keep": SHARE}),
    "SPARE, 11.1 % of the video": Budget({"keep": SHARE, "per": "prompt"}),
}


def measure(
    server: Server, requests: list[Asked], concurrency: int, label: str, target: float
) -> dict[str, Any]:
    """One load on one server."""
    count = len(requests)
    before = server.numbers()
    with server.watching() as usage:
        served = asyncio.run(run(server.url, requests, concurrency, label))
    after = server.numbers()

    def grown(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    first, last = (np.array([getattr(one, kind) for one in served]) for kind in ("first", "last"))
    length = max(asked.at + one.last for asked, one in zip(requests, served, strict=True))
    pictures = max(grown("sparevlm_encoder_seconds_count"), 1)
    return {
        "concurrency": concurrency, "requests": count,
        "first": {f"p{q}": float(np.percentile(first, q)) for q in (50, 95, 99)},
        "last": {f"p{q}": float(np.percentile(last, q)) for q in (50, 95, 99)},
        "goodput": float((first <= target).sum() / length),
        "throughput": count / length,
        "kv_peak": max(usage, default=0.0),
        "kv_mean": float(np.mean(usage)) if usage else 0.0,
        "encoder_seconds": grown("sparevlm_encoder_seconds_sum") / count,
        "encoder_runs": pictures,
        "selection_seconds": grown("sparevlm_selection_seconds_sum") / count,
        "prompt_tokens": grown("vllm:prompt_tokens_total") / count,
    }  # fmt: skip


def table(results: dict[str, Any], budgets: Mapping[str, Budget]) -> str:
    """Means over repeats, with the spread (least to largest) where it matters."""
    lines = [
        "| at once | arrivals /s | budget | first token P50 / P95 / P99 [s] "
        "| end P50 / P95 / P99 [s] | in time /s | KV peak | encoder, selection [ms] |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    runs = results["runs"]
    for concurrency in dict.fromkeys(one["concurrency"] for one in runs):
        for budget, how in budgets.items():
            some = [
                one for one in runs
                if one["budget"] == budget and one["concurrency"] == concurrency
            ]  # fmt: skip
            if not some:
                continue

            def mean(*path: str, some: list[dict[str, Any]] = some) -> float:
                values = [one[path[0]][path[1]] if path[1:] else one[path[0]] for one in some]
                return float(np.mean(values))

            def spread(*path: str, some: list[dict[str, Any]] = some) -> str:
                values = [one[path[0]][path[1]] if path[1:] else one[path[0]] for one in some]
                several = f" ({min(values):.2f} to {max(values):.2f})" if values[1:] else ""
                return f"{np.mean(values):.2f}{several}"

            ours = how.module == MODULE  # vLLM does not tell its own selection from encoding
            selection = f", {1000 * mean('selection_seconds'):.1f}" if ours else ""
            lines.append(
                f"| {concurrency} | {some[0]['rate']:g} | {budget} "
                f"| {spread('first', 'p50')} / {mean('first', 'p95'):.2f} "
                f"/ {mean('first', 'p99'):.2f} "
                f"| {mean('last', 'p50'):.2f} / {mean('last', 'p95'):.2f} "
                f"/ {mean('last', 'p99'):.2f} "
                f"| {spread('goodput')} | {mean('kv_peak'):.1%} "
                f"| {1000 * mean('encoder_seconds'):.0f}{selection} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the bench; a run that was stopped goes on with the loads it has not done."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/serving"))
    parser.add_argument("--videos", action="store_true", help="videos of 32 frames, EVS too")
    parser.add_argument(
        "--model", type=Path, help="a LLaVA with 576 tokens a picture, or a Qwen2.5-VL"
    )
    parser.add_argument("--rates", help="at once:requests a second, ...")
    parser.add_argument("--count", type=int, default=40, help="requests of one load")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--target", type=float, default=2.0, help="seconds to the first token")
    parser.add_argument("--server", nargs=argparse.REMAINDER, default=[], help="options of vLLM")
    args = parser.parse_args()
    budgets = VIDEOS if args.videos else PICTURES
    rates = args.rates or (RATES_OF_VIDEOS if args.videos else RATES)
    args.out.mkdir(parents=True, exist_ok=True)
    size = None
    if args.model is None:
        args.model = args.out / "model"
        size = (save_video_model if args.videos else save)(args.model)
    path = args.out / "results.json"
    results: dict[str, Any] = {"target": args.target, "parameters": size, "runs": []}
    if path.exists():
        results = json.loads(path.read_text())
    loads = [(int(c), float(r)) for c, r in (part.split(":") for part in rates.split(","))]
    done = {(r["budget"], r["concurrency"], r["seed"]) for r in results["runs"]}

    def asked(count: int, rate: float, seed: int) -> list[Asked]:
        return make_requests(count, rate, seed, "bench", videos=args.videos)

    for seed in range(args.repeats):
        for name, budget in budgets.items():
            left = [load for load in loads if (name, load[0], seed) not in done]
            if not left:
                continue
            options = [*KIND, *budget.options, *args.server]
            log = args.out / "server.log"
            with serving(args.model, budget.settings, log, options, budget.module) as server:
                measure(server, asked(2, 1.0, 99_001), 1, "warm-up", args.target)
                for concurrency, rate in left:
                    label = f"{name}, {concurrency} at once, repeat {seed + 1}"
                    requests = asked(args.count, rate, 1000 * seed + concurrency)
                    one = measure(server, requests, concurrency, label, args.target)
                    results["runs"].append({"budget": name, "rate": rate, "seed": seed, **one})
                    new = path.with_suffix(".new")
                    new.write_text(json.dumps(results, indent=1))
                    new.replace(path)
    (args.out / "table.md").write_text(table(results, budgets))
    print(table(results, budgets))


if __name__ == "__main__":
    main()
