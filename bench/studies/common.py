"""What the studies share: answers of the pocket model that are kept, tables and figures."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sparevlm import PruningMethod, RandomTokens, load, viz
from sparevlm.evaluation import Item, Setting, pocket_items, run
from sparevlm.evaluation.statistics import interval, same
from sparevlm.hf.loading import POCKET, SHIPPED

KEEPS = (65, 44, 22, 11)  # 33.3, 22.2, 11.1 and 5.6 % of 196 tokens
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")

COMPOSITIONAL = ("relation", "sum", "nearest", "count")
"""Skills of plain scenes that need several things of the picture at once."""


@dataclass(frozen=True)
class Outcome:
    """What became of each question under one setting, seeds averaged.

    Attributes
    ----------
    right : float array [questions]
    residual, tokens : float
        Means.
    """

    right: np.ndarray
    residual: float
    tokens: float

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def minus(self, other: Outcome, those: np.ndarray | None = None) -> str:
        """Difference on the same questions, in points, with its 95 % interval."""
        which = slice(None) if those is None else those
        mean, low, high = (100 * v for v in interval(self.right[which], other.right[which]))
        return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


class Bench:
    """Asks a shipped model, and keeps the answers under `out`, so that a stopped study goes on.

    Answers of other weights are never taken for these: the folder is named after them.
    """

    def __init__(
        self,
        out: Path,
        limit: int,
        split: str = "test",
        scenes: str = "plain",
        model: str = "pocket",
    ):
        self.limit, self.split, self.scenes, self.model = limit, split, scenes, model
        weights = SHIPPED[model] / "model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
        self.out = out / f"{digest}-{scenes}-{split}-{limit}"
        self.known: dict[tuple[Path, str], Outcome] = {}

    @cached_property
    def loaded(self):
        return load(self.model, device="cpu")

    @cached_property
    def items(self) -> list[Item]:
        return pocket_items(self.split, self.limit, self.scenes)

    @cached_property
    def skills(self) -> np.ndarray:
        return np.array([item.skill for item in self.items])

    def of(self, skills: Sequence[str]) -> np.ndarray:
        """Where questions of these skills are: bool [questions]."""
        return np.isin(self.skills, skills)

    def ask(
        self,
        methods: dict[str, Sequence[PruningMethod | None]],
        relevance: str = "auto",
        items: Sequence[Item] | None = None,
        name: str = "",
    ) -> dict[str, Outcome]:
        """Label -> methods that differ in their seed alone (None: all tokens) -> outcomes."""
        items = self.items if items is None else items
        folder = self.out / (name or relevance)
        return {
            label: self._outcome(label, draws, relevance, items, folder)
            for label, draws in methods.items()
        }

    def _outcome(
        self,
        label: str,
        draws: Sequence[PruningMethod | None],
        relevance: str,
        items: Sequence[Item],
        folder: Path,
    ) -> Outcome:
        settings = [
            Setting(label, "-" if method else "", i, method) for i, method in enumerate(draws)
        ]
        if (folder, label) not in self.known:
            answers, odd = run(
                *self.loaded,
                items,
                settings,
                folder / label.replace(" ", "-"),
                about={"questions": len(items), "methods": [repr(s.method) for s in settings]},
                batch=50,
                options={"relevance": relevance},
            )
            assert not odd
            said = {(answer.setting, answer.row): answer for answer in answers}
            each = [[said[s.key, item.row] for item in items] for s in settings]
            flat = [answer for one in each for answer in one]
            right = [
                [same(a.said, i.answers) for a, i in zip(one, items, strict=True)] for one in each
            ]
            self.known[folder, label] = Outcome(
                np.mean(right, axis=0),
                float(np.mean([answer.residual for answer in flat])),
                float(np.mean([answer.after for answer in flat])),
            )
        return self.known[folder, label]


def known_scenes() -> list[str]:
    """Kinds of scenes that the shipped model was trained on."""
    return list(json.loads((POCKET / "accuracy.json").read_text())["scenes"])


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def by_skill(bench: Bench, outcome: Outcome) -> list[str]:
    """Accuracy in percent, a cell a skill."""
    return [
        f"{100 * outcome.right[bench.skills == skill].mean():.0f}"
        for skill in dict.fromkeys(bench.skills.tolist())
    ]


def lines_plot(
    groups: dict[str, Sequence[tuple[float, float]]],
    xlabel: str,
    levels: dict[str, float] | None = None,
    *,
    log: bool = True,
) -> Figure:
    """Accuracy in percent against something, a line a group; levels as dashes."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (label, points) in enumerate(groups.items()):
        x, y = zip(*sorted(points), strict=True)
        axes.plot(x, [100 * v for v in y], "osD^vPX"[i % 7] + "-", color=COLORS[i % 8], label=label)
    for (label, level), style in zip((levels or {}).items(), ("--", ":", "-."), strict=False):
        axes.axhline(100 * level, color="#666666", linestyle=style, linewidth=1, label=label)
    if log:
        axes.set_xscale("log")
        ticks = sorted({x for points in groups.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel="right answers (%)")
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


@dataclass(frozen=True)
class Page:
    """A study as a file: `docs/studies/NAME.md` and figures beside it."""

    folder: Path
    name: str

    def figure(self, what: str, drawn: Figure, alt: str) -> str:
        """Write a figure, and give the Markdown that shows it."""
        path = self.folder / f"{self.name}-{what}.png"
        drawn.set_dpi(110)
        viz.save(drawn, path)
        return f"![{alt}]({path.name})\n"

    def write(
        self,
        title: str,
        bench: Bench,
        parts: Sequence[str],
        models: Sequence[str] = ("pocket",),
    ) -> Path:
        """Write the page, with what it was measured on and the command that does it again."""
        several = len(models) > 1
        on = f"the models {' and '.join(models)}" if several else f"the {models[0]} model"
        small = "Small models" if several else "One small model"
        kind = "" if bench.scenes == "plain" else f"{bench.scenes} scenes, "
        head = (
            f"# {title}\n\n"
            f"Measured on {on}, {kind}the first {bench.limit:,} {bench.split} "
            "questions, greedy answers that are right word for word, in percent; differences in "
            "points on the same questions, with 95 % paired bootstrap intervals; random tokens: "
            f"three seeds. {small} on drawn scenes, which never saw a pruned prompt in "
            "training. By\n\n"
            f"    python -m bench.studies {self.name} --limit {bench.limit}\n\n"
            f"on {machine()}.\n"
        )
        path = self.folder / f"{self.name}.md"
        path.write_text("\n".join([head, *parts]), encoding="utf-8")
        return path


def machine() -> str:
    """Cores and processor, for the record."""
    cpus = Path("/proc/cpuinfo")
    named = [
        line.split(":", 1)[1].strip()
        for line in (cpus.read_text().splitlines() if cpus.exists() else ())
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores ({named[0] if named else platform.machine()})"


def random(keep: int, **how: object) -> list[RandomTokens]:
    """Three draws."""
    return [RandomTokens(keep, seed=seed, **how) for seed in range(3)]


Study = Callable[[Bench, Page], None]
