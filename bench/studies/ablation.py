"""Reconstruction, + anti, + normal (the paper's Fig. 5), ResPrune, and the strength of guidance."""

from __future__ import annotations

from bench.studies.common import KEEPS, Bench, Page, by_skill, lines_plot, percent, random, table
from sparevlm import SPARE, ResPrune

STRENGTHS = (0.1, 0.25, 0.5, 0.75, 1.0)
SWEPT = (22, 11)


def study(bench: Bench, page: Page) -> None:
    full = bench.ask({"all tokens": [None]})["all tokens"]
    skills = list(dict.fromkeys(bench.skills.tolist()))
    variants = {
        "reconstruction": {"guidance": "none"},
        "+ anti 0.25 (SPARE)": {"guidance": "anti", "strength": 0.25},
        "+ anti 1": {"guidance": "anti", "strength": 1.0},
        "+ normal 0.25": {"guidance": "normal", "strength": 0.25},
        "+ normal 1": {"guidance": "normal", "strength": 1.0},
    }
    rows, plotted = [], {}
    for keep in KEEPS:
        base = None
        for name, how in variants.items():
            label = f"spare {how['guidance']} {how.get('strength', 0)} {keep}"
            if how["guidance"] == "none":
                label = f"spare none {keep}"
            one = bench.ask({label: [SPARE(keep, **how)]}, "clip")[label]
            base = base or one
            difference = "" if one is base else one.minus(base)
            rows.append([name, keep, percent(one.accuracy), difference, *by_skill(bench, one)])
            plotted.setdefault(name, []).append((keep, one.accuracy))
        for relevance, space in (("llm", "word embeddings"), ("clip", "CLIP")):
            label = f"resprune {keep}"
            one = bench.ask({label: [ResPrune(keep)]}, relevance)[label]
            name = f"ResPrune, {space}"
            rows.append([name, keep, percent(one.accuracy), one.minus(base), *by_skill(bench, one)])
            plotted.setdefault(name, []).append((keep, one.accuracy))
        drawn = bench.ask({f"random {keep}": random(keep)})[f"random {keep}"]
        rows.append(["random", keep, percent(drawn.accuracy), drawn.minus(base),
                     *by_skill(bench, drawn)])  # fmt: skip
        plotted.setdefault("random", []).append((keep, drawn.accuracy))
    figure = lines_plot(plotted, "visual tokens kept", {"all tokens": full.accuracy})
    page.write(
        "Reconstruction with and without guidance",
        bench,
        [
            "Relevance from CLIP. The product of weight and residual is ours: the paper's public "
            "text names the two ingredients and not how they are joined. ResPrune (arXiv "
            "2603.21105) has the same residuals and weighs towards the question, in the space of "
            "the language model's embeddings; beside it the same with CLIP's relevance.\n",
            page.figure(
                "guidance", figure, "accuracy against tokens kept, with and without guidance"
            ),
            table(["kept by", "tokens", "all", "from reconstruction", *skills], rows),
            "\n## Strength\n",
            _strength(bench, page),
        ],
    )


def _strength(test: Bench, page: Page) -> str:
    """The sweep: defaults are chosen on validation questions, never on test."""
    bench = Bench(test.out.parent, test.limit, "validation", test.scenes)
    rows, plotted = [], {}
    for keep in SWEPT:
        for relevance in ("clip", "llm"):
            base = bench.ask({f"spare none {keep}": [SPARE(keep, guidance="none")]})[
                f"spare none {keep}"
            ]
            for guidance in ("anti", "normal"):
                for strength in STRENGTHS:
                    label = f"spare {guidance} {strength} {keep}"
                    method = SPARE(keep, guidance=guidance, strength=strength)
                    one = bench.ask({label: [method]}, relevance)[label]
                    title = {"clip": "CLIP", "llm": "word embeddings"}[relevance]
                    rows.append([f"{guidance}, {title}", keep, strength, percent(one.accuracy),
                                 one.minus(base)])  # fmt: skip
                    name = f"{guidance}, {title}, {keep} tokens"
                    plotted.setdefault(name, [(0.0, base.accuracy)]).append(
                        (strength, one.accuracy)
                    )
    figure = lines_plot(plotted, "strength of guidance", log=False)
    return "\n".join([
        f"On the first {bench.limit:,} validation questions; strength 0 is reconstruction alone.\n",
        page.figure("strength", figure, "accuracy against the strength of guidance"),
        table(["guidance", "tokens", "strength", "all", "from reconstruction"], rows),
    ])  # fmt: skip
