"""Budgets: bounded by the error instead of a number; shared over pictures instead of for each."""

from __future__ import annotations

import numpy as np
from PIL import Image

from bench.studies.common import KEEPS, Bench, Page, by_skill, lines_plot, percent, table
from sparevlm import SPARE, RandomTokens, Residual
from sparevlm.evaluation import Item

ERRORS = (0.001, 0.003, 0.01, 0.03, 0.1)


def study(bench: Bench, page: Page) -> None:
    full = bench.ask({"all tokens": [None]})["all tokens"]
    skills = list(dict.fromkeys(bench.skills.tolist()))
    rows, plotted = [], {"error-bounded": [], "fixed": []}
    for error in ERRORS:
        label = f"spare residual {error}"
        bounded = bench.ask({label: [SPARE(Residual(error), guidance="none")]})[label]
        keep = round(bounded.tokens)
        fixed = bench.ask({f"spare none {keep}": [SPARE(keep, guidance="none")]})[
            f"spare none {keep}"
        ]
        for name, one in ((f"Residual({error})", bounded), (f"fixed {keep}", fixed)):
            difference = one.minus(fixed) if one is bounded else ""
            rows.append([name, f"{one.tokens:.1f}", f"{one.residual:.4f}", percent(one.accuracy),
                         difference, *by_skill(bench, one)])  # fmt: skip
        plotted["error-bounded"].append((bounded.tokens, bounded.accuracy))
        plotted["fixed"].append((fixed.tokens, fixed.accuracy))
    figure = lines_plot(
        plotted, "mean visual tokens kept", {"all tokens": full.accuracy}, log=False
    )
    page.write(
        "Budgets",
        bench,
        [
            "`Residual(e)` keeps as few tokens of each picture as leave at most e of its squared "
            "feature energy unexplained; beside it the fixed budget of the same mean. "
            "Reconstruction alone, no guidance.\n",
            page.figure("residual", figure, "error-bounded and fixed budgets"),
            table(["budget", "mean tokens", "mean residual", "all", "from fixed", *skills], rows),
            "\n## For each picture, or for the prompt\n",
            _joint(bench, page),
        ],
    )


def _joint(bench: Bench, page: Page) -> str:
    """A scene beside an empty background, in either order."""

    def item(one: Item) -> Item:
        empty = _empty(bench, one.row)
        first = one.row % 2 == 0
        return Item(
            one.row, one.question, one.answers, one.skill,
            lambda: [one.pictures()[0], empty] if first else [empty, one.pictures()[0]],
        )  # fmt: skip

    items = [item(one) for one in bench.items]
    how = {"items": items, "name": "two-pictures"}
    full = bench.ask({"all tokens": [None]}, **how)["all tokens"]
    rows, plotted = [], {}
    for keep in KEEPS:
        found = {}
        for per in ("image", "prompt"):
            budget = keep if per == "image" else 2 * keep
            for name, draws in (
                ("spare", [SPARE(budget, guidance="none", per=per)]),
                ("random", [RandomTokens(budget, seed=seed, per=per) for seed in range(3)]),
            ):
                label = f"{name} per {per} {keep}"
                one = found[name, per] = bench.ask({label: draws}, **how)[label]
                difference = one.minus(found[name, "image"]) if per == "prompt" else ""
                rows.append([name, per, f"{one.tokens:.0f}", percent(one.accuracy), difference])
                plotted.setdefault(f"{name}, per {per}", []).append((2 * keep, one.accuracy))
    figure = lines_plot(plotted, "visual tokens kept of both", {"all tokens": full.accuracy})
    return "\n".join([
        "Each question's scene stands beside a picture that shows nothing but background, before "
        "or after it. With all 392 tokens the model, which saw one picture at a time in training, "
        f"gets {percent(full.accuracy)} % right. One budget for the prompt (`per=\"prompt\"`) is "
        "spent by one selection over both pictures.\n",
        page.figure("joint", figure, "a budget for each picture and one for the prompt"),
        table(["kept by", "per", "tokens of both", "all", "prompt - image"], rows),
    ])  # fmt: skip


def _empty(bench: Bench, row: int) -> Image.Image:
    """A background without things: a scene whose things are painted over by its own background."""
    from sparevlm.pocket import scenes

    seed = scenes.SEEDS[bench.split] + 10**11 + row
    background = scenes._background(np.random.default_rng(seed))
    return Image.fromarray(background.clip(0, 255).astype(np.uint8))
