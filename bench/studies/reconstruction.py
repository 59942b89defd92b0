"""Does the error of reconstruction predict accuracy? Over methods, budgets and skills."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from scipy.stats import rankdata

from bench.studies.common import KEEPS, Bench, Outcome, Page, percent, random, table
from sparevlm import get_method, list_methods
from sparevlm.methods import method_class

DRAWS = 1000
PICKING = "methods that keep rows as they are"
MERGING = "methods that merge or encode anew"


def study(bench: Bench, page: Page) -> None:
    names = [name for name in list_methods() if name not in ("no-image", "relevance-alone")]
    found: dict[tuple[str, int], Outcome] = {}
    for keep in KEEPS:
        for name in names:
            label = f"{name} {keep}"
            draws = [get_method(name, keep)] if name != "random" else random(keep)
            found[name, keep] = bench.ask({label: draws})[label]
    kept = [name for name in names if not method_class(name).merges]
    groups = {
        PICKING: kept,
        "of these, without uniform and random": [n for n in kept if n not in ("uniform", "random")],
        MERGING: [name for name in names if method_class(name).merges],
    }
    rows = [
        [title, len(members), *_correlations(bench, found, members)]
        for title, members in groups.items()
    ]
    ranked = sorted(names, key=lambda n: -np.mean([found[n, k].accuracy for k in KEEPS]))
    page.write(
        "Does reconstruction error predict accuracy?",
        bench,
        [
            "Every method at every budget is a point: the relative squared residual of the kept "
            "tokens (mean over pictures) and the accuracy. Over budgets a correlation is nearly "
            "certain, since fewer tokens leave more error and less to answer from; the question "
            "is whether, **at the same number of tokens**, the method with less error answers "
            "better.\n",
            page.figure("points", _points(found, kept), "accuracy against reconstruction error"),
            "Spearman's rank correlation of accuracy with the residual (-1: less error, better "
            "answers). Its interval comes from drawing questions anew; the methods stay.\n",
            table(
                ["over", "methods", "all budgets", *(f"at {keep} tokens" for keep in KEEPS)], rows
            ),
            "By skill, at the same number of tokens (mean of the correlations at the budgets), "
            f"{PICKING}:\n",
            _by_skill(bench, found, kept),
            "All of them, the best first:\n",
            table(
                ["kept by", *(f"{keep}: right" for keep in KEEPS),
                 *(f"{keep}: residual" for keep in KEEPS)],
                [
                    [name + ("" if name in kept else " (merges)"),
                     *(percent(found[name, keep].accuracy) for keep in KEEPS),
                     *(f"{found[name, keep].residual:.4f}" for keep in KEEPS)]
                    for name in ranked
                ],
            ),
        ],
    )  # fmt: skip


def _spearman(residuals: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """Rank correlation of residuals [P] with each row of accuracies [R, P]."""
    a = rankdata(residuals)
    b = rankdata(accuracies, axis=1)
    a = a - a.mean()
    b = b - b.mean(1, keepdims=True)
    scale = np.sqrt((a**2).sum() * (b**2).sum(1))
    return (b @ a) / np.where(scale == 0, np.inf, scale)


def _redrawn(bench: Bench, found: dict, points: list, those: np.ndarray) -> np.ndarray:
    """Accuracies [1 + DRAWS, P] of points on the questions, and on questions drawn anew."""
    right = np.stack([found[point].right for point in points])[:, those]
    rng = np.random.default_rng(0)
    counts = rng.multinomial(right.shape[1], np.full(right.shape[1], 1 / right.shape[1]), DRAWS)
    return np.concatenate([right.mean(1)[None], counts @ right.T / right.shape[1]])


def _interval(values: np.ndarray) -> str:
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return f"{values[0]:+.2f} [{low:+.2f}, {high:+.2f}]"


def _correlations(bench: Bench, found: dict, members: list[str]) -> list[str]:
    cells, everything = [], np.ones(bench.limit, bool)
    for keeps in (KEEPS, *((keep,) for keep in KEEPS)):
        points = [(name, keep) for name in members for keep in keeps]
        residuals = np.array([found[point].residual for point in points])
        accuracies = _redrawn(bench, found, points, everything)
        cells.append(_interval(_spearman(residuals, accuracies)))
    return cells


def _by_skill(bench: Bench, found: dict, members: list[str]) -> str:
    rows = []
    for skill in dict.fromkeys(bench.skills.tolist()):
        each = []
        for keep in KEEPS:
            points = [(name, keep) for name in members]
            residuals = np.array([found[point].residual for point in points])
            each.append(_spearman(residuals, _redrawn(bench, found, points, bench.skills == skill)))
        rows.append([skill, _interval(np.mean(each, axis=0))])
    return table(["skill", "rank correlation"], rows)


def _points(found: dict, members: list[str]) -> Figure:
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    axes = figure.subplots()
    marks, colors = dict(zip(KEEPS, "osD^", strict=True)), colormaps["tab20"]
    for i, name in enumerate(members):
        for keep in KEEPS:
            one = found[name, keep]
            axes.plot(
                one.residual, 100 * one.accuracy, marks[keep], color=colors(i), markersize=6,
                label=name if keep == KEEPS[0] else None,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set(xlabel="feature energy left unexplained", ylabel="right answers (%)")
    axes.grid(True, color="#dddddd", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    shapes = [axes.plot([], [], marks[k], color="#444444", label=f"{k} tokens")[0] for k in KEEPS]
    axes.legend(handles=shapes, frameon=False, fontsize=8, loc="lower left")
    return figure
