"""Measure what the defaults stand on: positions, guidance and its strength, on the pocket model;
beside them the other methods.

python bench/defaults.py --split validation --count 1000 --json out/defaults.json
prints a table: accuracy of every setting, and its difference from a reference answered on the same
questions, with a paired bootstrap interval. Defaults are chosen on validation questions;
`--split test` is for what is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap

from sparevlm import SPARE, RandomTokens, UniformGrid, get_method, load
from sparevlm.pocket.questions import SKILLS
from sparevlm.pocket.training.evaluate import accuracy, answer

SEEDS = (0, 1, 2)


def settings(keeps: list[int]) -> dict[str, tuple]:
    """Name -> (methods whose answers are pooled, options of attach, name of the reference)."""
    found = {}
    for k in keeps:
        for positions in ("original", "compact"):
            how = {"positions": positions}
            base = f"spare, no guidance, {positions}, {k}"
            first = f"spare, no guidance, original, {k}"
            found[base] = ([SPARE(k, guidance="none", **how)], {}, first)
            found[f"uniform, {positions}, {k}"] = ([UniformGrid(k, **how)], {}, first)
            drawn = [RandomTokens(k, seed=seed, **how) for seed in SEEDS]
            found[f"random, {positions}, {k}"] = (drawn, {}, first)
        for name in ("greedy-css", "cdpruner", "divprune", "k-center", "norm"):
            method = get_method(name, k, positions="original")
            found[f"{name}, original, {k}"] = ([method], {}, first)
        for relevance in ("clip", "llm"):
            for guidance in ("anti", "normal"):
                for strength in (0.25, 0.5, 1.0):
                    method = SPARE(k, guidance=guidance, strength=strength, positions="original")
                    name = f"spare, {guidance} {strength}, {relevance}, {k}"
                    found[name] = ([method], {"relevance": relevance}, first)
    return found


def interval(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """Mean difference of paired outcomes, and its 95 % bootstrap interval."""
    if np.array_equal(ours, theirs):
        return 0.0, 0.0, 0.0
    found = bootstrap(
        ((ours - theirs),), np.mean, n_resamples=2000, method="percentile", rng=0
    ).confidence_interval
    return float((ours - theirs).mean()), float(found.low), float(found.high)


def table(plain: dict[str, float], result: dict[str, dict]) -> str:
    """A Markdown table: accuracy in percent by skill, and the difference from the reference."""
    head = ["tokens kept by", "all", "difference [95 %]", *SKILLS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, found in {"all 196": plain | {"difference": None}, **result}.items():
        cells = [f"{100 * found[skill]:.0f}" for skill in SKILLS]
        change = ""
        if found["difference"] is not None:
            mean, low, high = (100 * value for value in found["difference"])
            change = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        lines.append(f"| {name} | {100 * found['overall']:.1f} | {change} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--keep", default="12,24,49", help="tokens kept, comma separated")
    parser.add_argument("--only", default="", help="settings that match this, and references")
    parser.add_argument("--markdown", type=Path, help="write a table here")
    parser.add_argument("--json", type=Path, help="write everything here")
    options = parser.parse_args()
    keeps = [int(k) for k in options.keep.split(",")]
    model, processor = load("pocket", device="cpu")
    chosen = {
        name: what
        for name, what in settings(keeps).items()
        if re.search(options.only, name) or name == what[2]
    }
    right, result = {}, {}
    plain = accuracy(answer(model, processor, options.split, options.count))
    print(f"{'all 196 tokens':44s} {plain['overall']:.3f}")
    for name, (methods, how, _) in chosen.items():
        began = time.perf_counter()
        runs = [
            answer(model, processor, options.split, options.count, pruning=m.attach(model, **how))
            for m in methods
        ]
        right[name] = np.mean([[s.right for s in run] for run in runs], axis=0)
        pooled = [score for run in runs for score in run]
        result[name] = accuracy(pooled) | {"seconds": time.perf_counter() - began}
        reference = right.get(chosen[name][2])
        difference = interval(right[name], reference) if reference is not None else (0, 0, 0)
        result[name]["difference"] = difference
        print(
            f"{name:44s} {result[name]['overall']:.3f}  "
            f"{difference[0]:+.3f} [{difference[1]:+.3f}, {difference[2]:+.3f}]",
            flush=True,
        )
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(table(plain, result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        told = {
            "split": options.split,
            "count": options.count,
            "skills": list(SKILLS),
            "all": plain,
            "settings": result,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        }
        partial = options.json.with_suffix(".partial")
        partial.write_text(json.dumps(told, indent=1) + "\n")
        os.replace(partial, options.json)


if __name__ == "__main__":
    main()
