"""Is one greedy rule ahead of every method? docs/studies/one_rule.md.

python -m bench.studies.one_rule

Needs the network, as bench.studies.real_features does; answers are kept, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from bench.studies.common import Bench, Page, machine, table
from bench.studies.real.fetch import fetch
from bench.studies.real.halves import halves
from bench.studies.real.halves import interval as over_photographs
from bench.studies.real.measure import KEEPS, Maker, plain_spare
from bench.studies.real.measured import Measured, measured
from bench.studies.real.rows import SCENES
from bench.studies.rules.sketched import SketchedCSS
from sparevlm import SPARE, get_method
from sparevlm.evaluation.statistics import interval
from sparevlm.methods import PruningMethod
from sparevlm.methods.base import _REGISTRY
from sparevlm.tokens import VisualTokens

BUDGETS = (11, 22, 44)
COVERED = (8, 16, 32)
RIVALS = ("spare", "divprune", "greedy-css")
"""Three of those that answer most in docs/studies/reconstruction.md."""

NORMALIZED = "spare, normalized"


def css(exponent: float, columns: int = 0) -> Maker:
    """A rule of `SketchedCSS`."""
    return lambda keep: [SketchedCSS(keep, exponent=exponent, columns=columns)]


def registered(name: str) -> Maker:
    """A method as the registry makes it."""
    return lambda keep: [get_method(name, keep)]


RULES: dict[str, Maker] = {
    "css, exponent 0.5": css(0.5),
    "css, exponent 1": css(1.0),
    "css, exponent 0.5, 64 mixtures": css(0.5, 64),
    "pivots, exponent 0.5": plain_spare(exponent=0.5),
}
SHAPES = ((196, 256, 22), (576, 1024, 64), (576, 4096, 64))  # tokens, features, kept


def rivals() -> dict[str, Maker]:
    """Methods of the registry as they come, and SPARE at length 1."""
    made = {name: registered(name) for name in RIVALS}
    return {**made, NORMALIZED: lambda keep: [SPARE(keep, normalize=True)]}


def answered(out: Path, limit: int) -> dict[tuple[str, str, int], np.ndarray]:
    """Scenes, method or rule, budget -> what became of each question."""
    found = {}
    for scenes in SCENES:
        bench = Bench(out, limit, "validation", scenes)
        for name, maker in {**rivals(), **RULES}.items():
            for k in BUDGETS:
                label = f"{name.replace(',', '')} {k}"
                found[scenes, name, k] = bench.ask({label: maker(k)})[label].right
    return found


def answers(found: Mapping[tuple[str, str, int], np.ndarray]) -> str:
    """Accuracy of all, the best of each cell bold."""
    cells = [(scenes, k) for scenes in SCENES for k in BUDGETS]
    names = list(dict.fromkeys(name for _, name, _ in found))
    best = {(s, k): max(found[s, name, k].mean() for name in names) for s, k in cells}

    def cell(name: str, scenes: str, k: int) -> str:
        value = found[scenes, name, k].mean()
        return f"**{100 * value:.1f}**" if value == best[scenes, k] else f"{100 * value:.1f}"

    rows = [[name, *(cell(name, s, k) for s, k in cells)] for name in names]
    return table(["kept by", *(f"{s}, {k}" for s, k in cells)], rows)


def ahead(found: Mapping[tuple[str, str, int], np.ndarray]) -> str:
    """Each rule against each rival: cells of nine clear above 0, and clear below."""
    rows = []
    for rule in RULES:
        row = [rule]
        for rival in rivals():
            bounds = [
                interval(found[s, rule, k], found[s, rival, k])[1:]
                for s in SCENES for k in BUDGETS
            ]  # fmt: skip
            above, below = sum(low > 0 for low, _ in bounds), sum(high < 0 for _, high in bounds)
            row.append(f"{above} / {below}")
        rows.append(row)
    return table(["rule", *rivals()], rows)


def room(found: Mapping[tuple[str, str, int], np.ndarray], rule: str) -> str:
    """How wide intervals are beside what the best rival of each column leaves to gain."""
    rows, closed = [], 0
    for s in SCENES:
        for k in BUDGETS:
            rival = max(rivals(), key=lambda name: float(found[s, name, k].mean()))
            mean, low, high = interval(found[s, rule, k], found[s, rival, k])
            left, reach = 1 - float(found[s, rival, k].mean()), (high - low) / 2
            closed += left <= reach
            rows.append(
                [s, k, rival, f"{100 * left:.1f}",
                 f"{100 * mean:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"]
            )  # fmt: skip
    return (
        f"In {closed} of nine columns the best rival leaves no more to gain than half an interval "
        f"is wide, so no rule could be clear of it with so few questions. {rule[0].upper()}"
        f"{rule[1:]} against the best rival of each column:\n\n"
        + table(["scenes", "tokens", "best rival", "left to 100", "minus it"], rows)
    )


def covered(groups: Mapping[str, Measured]) -> str:
    """Each rule against SPARE and DivPrune: regions hit, in points; clear of 0 is bold."""
    rows = []
    for title, found in groups.items():
        for rule in RULES:
            for rival in ("spare", "divprune"):
                cells = []
                for what in ("all", "small"):
                    values = getattr(found, what)
                    for k in COVERED:
                        at = KEEPS.index(k)
                        both = values[rule][:, at] - values[rival][:, at]
                        mean, low, high = over_photographs(both[~np.isnan(both)], 1)
                        text = f"{100 * mean:+.1f}"
                        cells.append(f"**{text}**" if low > 0 or high < 0 else text)
                rows.append([title, rule, rival, *cells])
    head = [f"{what}, {k}" for what in ("all", "small") for k in COVERED]
    return table(["features", "rule", "minus", *head], rows)


def milliseconds(method: PruningMethod, tokens: VisualTokens, repeats: int = 7) -> float:
    """The least of several runs."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        method.reduce(tokens)
        taken.append(time.perf_counter() - start)
    return 1000 * min(taken)


def times() -> str:
    """Time over SPARE's, interleaved, one core."""
    asked = {name: registered(name) for name in ("greedy-css", "divprune")} | RULES
    rows, spare = {name: [name] for name in asked}, ["spare (ms)"]
    torch.set_num_threads(1)
    for n, d, k in SHAPES:
        tokens = VisualTokens(torch.randn(n, d, generator=torch.Generator().manual_seed(0)))
        reference = SPARE(k, guidance="none")
        spare.append(f"{milliseconds(reference, tokens):.2f}")
        for name, maker in asked.items():
            pair = [milliseconds(m, tokens) for m in (reference, maker(k)[0], reference)]
            rows[name].append(f"{2 * pair[1] / (pair[0] + pair[2]):.2f}")
    return table(["rule", *(f"{k} of {n} x {d}" for n, d, k in SHAPES)], [*rows.values(), spare])


def study(page: Page, kept: Path, limit: int) -> Path:
    """Ask, measure, and write the page."""
    found = answered(kept, limit)
    fetched = fetch()
    first, _ = halves(len(fetched.last.features))
    makers = {"spare": plain_spare(), "divprune": registered("divprune"), **RULES}
    rows = (fetched.last.of(first), fetched.before.of(first))
    groups = {one.title: measured(one, makers) for one in rows}
    path = page.folder / f"{page.name}.md"
    path.write_text(words(found, groups, limit), encoding="utf-8")
    return path


def clear(found: Mapping[tuple[str, str, int], np.ndarray], rule: str) -> bool:
    """Whether a rule is ahead of every rival in every column, its interval clear of 0."""
    columns = [(s, rival, k) for s in SCENES for rival in rivals() for k in BUDGETS]
    return all(interval(found[s, rule, k], found[s, rival, k])[1] > 0 for s, rival, k in columns)


def words(
    found: Mapping[tuple[str, str, int], np.ndarray], groups: Mapping[str, Measured], limit: int
) -> str:
    """The page."""
    means = {
        name: float(np.mean([found[s, name, k].mean() for s in SCENES for k in BUDGETS]))
        for name in dict.fromkeys(name for _, name, _ in found)
    }
    rule = max(RULES, key=lambda name: means[name])
    rival = max(rivals(), key=lambda name: means[name])
    ahead_of_all = any(clear(found, name) for name in RULES)
    verdict = "By answers yes" if ahead_of_all else "No, among those tried here"
    return (
        "# One rule ahead of all?\n\n"
        "Is there one greedy rule, at no more than 1.5 times SPARE's time, that answers more than "
        f"every other method with {', '.join(map(str, BUDGETS))} of 196 tokens of pocket, the "
        "interval clear of 0 on all three kinds of scenes, and hits no fewer regions of real "
        f"photographs than SPARE or DivPrune? **{verdict}.** Measured on the first "
        f"{limit} validation questions of each kind, and on the first half of the photographs of "
        "[real features](real_features.md); nothing was asked of test scenes or the second half. "
        "By\n\n"
        f"    python -m bench.studies.one_rule --limit {limit}\n\n"
        f"on {machine()}.\n\n"
        "The rules take rows x / |x|^p. *css*: Farahat's gain, |R r|^2 / |r|^2, the token that "
        "lowers the error of all (shortened) rows most; with *64 mixtures* the gain is estimated "
        "from 64 random signed sums of rows instead of all. *pivots*: SPARE's gain, |r|. The "
        "rivals are three of those that answer most in [reconstruction](reconstruction.md), SPARE "
        "with the question, and SPARE at length 1; a rule that is not ahead of these is not ahead "
        "of all. Nothing but these rules was tried here; the first is the lead of an earlier "
        "trial by hand.\n\n"
        "## Answers\n\n"
        "Right answers in percent; the best of each column is bold.\n\n"
        f"{answers(found)}\n"
        f"Over all nine columns {rule} has most of the rules ({100 * means[rule]:.1f}) and {rival} "
        f"most of the rivals ({100 * means[rival]:.1f}).\n\n"
        "Columns of nine in which a rule is ahead of a method / behind it, its 95 % interval "
        "(bootstrap over questions, not corrected) clear of 0:\n\n"
        f"{ahead(found)}\n"
        "## Regions of photographs\n\n"
        "Share of regions with a kept token, in points; bold where the 95 % interval (bootstrap "
        "over photographs, not corrected) is clear of 0.\n\n"
        f"{covered(groups)}\n"
        "## Time\n\n"
        "Over SPARE's on the same features, one core, least of seven runs; the rules are "
        "written in NumPy, so this is what a first version costs; other work ran on the "
        "machine.\n\n"
        f"{times()}\n"
        f"## What stands in the way\n\n{room(found, rule)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=150, help="questions a kind (default: 150)")
    parser.add_argument("--answers", type=Path, default=Path("out/studies"), help="kept answers")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help="the page")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(study(Page(options.out, "one_rule"), options.answers, options.limit))


_REGISTRY.pop(SketchedCSS.name, None)  # the study's own: others go over all methods

if __name__ == "__main__":
    main()
