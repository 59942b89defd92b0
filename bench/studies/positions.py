"""Position ids of the full prompt, or renumbered after pruning."""

from __future__ import annotations

from bench.studies.common import KEEPS, Bench, Page, by_skill, lines_plot, percent, table
from sparevlm import RandomTokens, get_method

METHODS = ("spare", "divprune", "cdpruner", "uniform", "random")


def study(bench: Bench, page: Page) -> None:
    full = bench.ask({"all tokens": [None]})["all tokens"]
    skills = list(dict.fromkeys(bench.skills.tolist()))
    rows, plotted = [], {}
    for name in METHODS:
        for keep in KEEPS:
            found = {}
            for positions in ("original", "compact"):
                label = f"{name} {positions} {keep}"
                how = {"positions": positions}
                draws = (
                    [RandomTokens(keep, seed=seed, **how) for seed in range(3)]
                    if name == "random"
                    else [get_method(name, keep, **how)]
                )
                one = found[positions] = bench.ask({label: draws})[label]
                difference = one.minus(found["original"]) if positions == "compact" else ""
                rows.append([name, keep, positions, percent(one.accuracy), difference,
                             *by_skill(bench, one)])  # fmt: skip
                plotted.setdefault(f"{name}, {positions}", []).append((keep, one.accuracy))
    shown = {k: v for k, v in plotted.items() if k.split(",")[0] in ("spare", "divprune", "random")}
    figure = lines_plot(shown, "visual tokens kept", {"all tokens": full.accuracy})
    page.write(
        "Position ids after pruning",
        bench,
        [
            "Kept tokens either stay where they stood in the full prompt (original), or are "
            "numbered one after the other (compact).\n",
            page.figure("ids", figure, "accuracy with original and compact position ids"),
            table(["kept by", "tokens", "positions", "all", "compact - original", *skills], rows),
        ],
    )
