"""The two shipped models side by side: what changes where features are like real ones."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from bench.studies.common import Bench, Page, known_scenes, percent, random, table
from bench.studies.real.measure import errors, from_features, norms, picks
from bench.studies.real.rows import Rows, pocket
from sparevlm import SPARE, PruningMethod, get_method
from sparevlm.hf.loading import SHIPPED

MODELS = tuple(SHIPPED)
KEPT = (44, 22, 11)
ERRORS = (8, 32)
RIVALS = (
    "divprune", "greedy-css", "cdpruner", "mmtok", "scope", "vispruner", "dart", "visionzip",
    "uniform",
)  # fmt: skip
PICTURES = 60


def study(bench: Bench, page: Page) -> None:
    benches = {
        model: Bench(bench.out.parent, bench.limit, bench.split, bench.scenes, model)
        for model in MODELS
    }
    found = {model: _answers(one) for model, one in benches.items()}
    full = {m: one.ask({"all tokens": [None]})["all tokens"] for m, one in benches.items()}
    names = [name for name, keep in found[MODELS[0]] if keep == KEPT[0]]
    names.sort(key=lambda name: -found[MODELS[1]][name, KEPT[-1]].accuracy)
    head = ["kept by", *(f"{model}, {keep}" for keep in KEPT for model in MODELS)]
    shares = [
        [name, *(percent(found[m][name, keep].accuracy) for keep in KEPT for m in MODELS)]
        for name in names
    ]
    away = [
        [name, *(found[m][name, keep].minus(found[m]["spare", keep])
                 for keep in KEPT for m in MODELS)]
        for name in names if name != "spare"
    ]  # fmt: skip
    page.write(
        "The pocket model and its natural twin",
        bench,
        [
            "Both have the same shape, scenes and questions. `pocket-natural` was trained on from "
            "`pocket` with three wishes about its features (`--natural` of both stages): tokens "
            "of one length, three long ones on the background of each picture, and a share of "
            "each token for how its patch looks "
            "([real features](real_features.md) has what they follow).\n",
            "## Features\n",
            "Of validation scenes, the three kinds in turn. *Error*: what random tokens leave "
            "over what SPARE leaves, without a question.\n",
            _features(),
            "\n## Right answers\n",
            "All tokens: "
            + ", ".join(f"{model} {percent(one.accuracy)}" for model, one in full.items())
            + ".\n",
            table(head, shares),
            "\nFrom SPARE:\n",
            table(head, away),
            _agreement(found, names),
            "\n## Length 1\n",
            "SPARE without guidance, rows scaled to length 1 minus rows as they are.\n",
            _lengths(benches),
        ],
        models=MODELS,
    )


def _answers(bench: Bench) -> dict:
    found = {}
    for keep in KEPT:
        methods: dict[str, list[PruningMethod | None]] = {"spare": [SPARE(keep)]}
        methods |= {name: [get_method(name, keep)] for name in RIVALS}
        methods["random"] = list(random(keep))
        for name, draws in methods.items():
            label = f"{name} {keep}"
            found[name, keep] = bench.ask({label: draws})[label]
    return found


def _agreement(found: dict, names: list[str]) -> str:
    """Whether the order of methods on one model is that on the other."""
    said = []
    for keep in KEPT:
        each = [[found[model][name, keep].accuracy for name in names] for model in MODELS]
        said.append(f"{spearmanr(*each).statistic:+.2f} with {keep}")
    return (
        f"\nRank correlation of the {len(names)} methods' accuracies between the two models: "
        f"{', '.join(said)} tokens.\n"
    )


def _lengths(benches: dict[str, Bench]) -> str:
    rows = []
    for scenes in known_scenes():
        of_scenes = [
            Bench(one.out.parent, one.limit, one.split, scenes, model)
            for model, one in benches.items()
        ]
        for keep in KEPT:
            cells = []
            for asked in of_scenes:
                raw, unit = asked.ask(
                    {
                        f"spare none normalize {n} {keep}": [
                            SPARE(keep, guidance="none", normalize=n)
                        ]
                        for n in (False, True)
                    },
                    "none",
                ).values()
                cells += [percent(raw.accuracy), unit.minus(raw)]
            rows.append([scenes, keep, *cells])
    head = ["scenes", "tokens"]
    for model in benches:
        head += [f"{model}, as they are", "length 1 minus it"]
    return table(head, rows)


def _features() -> str:
    """What the rows of either model are like: one line of a table a model."""
    lines = []
    for model in MODELS:
        rows = pocket(PICTURES, model)
        each = [norms(features) for features in rows.features]
        tokens = len(rows.features[0])
        lines.append(
            [
                model,
                *(f"{np.mean([one[what] for one in each]):.2f}" for what in ("longest", "spread")),
                f"{tokens * np.mean([one['twice'] for one in each]):.1f}",
                f"{_on_things(rows):.2f}",
                *(f"{value:.1f}" for value in _random_over_spare(rows)),
            ]
        )
    head = ["model", "longest / median", "std / mean of lengths", "tokens above 2 medians"]
    head += ["length on things / background", *(f"error, {k} tokens" for k in ERRORS)]
    return table(head, lines)


def _on_things(rows: Rows) -> float:
    """Median length of tokens on things over that of the others, mean over pictures."""
    assert rows.regions is not None
    ratios = []
    for features, regions in zip(rows.features, rows.regions, strict=True):
        lengths, things = features.norm(dim=1).numpy(), np.asarray(regions) >= 0
        ratios.append(np.median(lengths[things]) / np.median(lengths[~things]))
    return float(np.mean(ratios))


def _random_over_spare(rows: Rows) -> list[float]:
    makers = from_features()
    left = {
        name: [errors(x, picks(makers[name], x, ERRORS)) for x in rows.features]
        for name in ("random", "spare")
    }
    return [
        float(np.mean([one[k] for one in left["random"]]) / np.mean([o[k] for o in left["spare"]]))
        for k in ERRORS
    ]
