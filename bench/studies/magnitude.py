"""Does the length of a feature vector matter? The same methods with features scaled to length 1."""

from __future__ import annotations

import numpy as np

from bench.studies.common import COMPOSITIONAL, KEEPS, Bench, Page, known_scenes, percent, table
from sparevlm import SPARE


def study(bench: Bench, page: Page) -> None:
    those = bench.of(COMPOSITIONAL)
    groups = {"compositional": (bench, those), "simple": (bench, ~those)}
    if "dense" in known_scenes():
        dense = Bench(bench.out.parent, bench.limit, bench.split, "dense")
        groups["dense scenes, two or three skills"] = (dense, np.ones(dense.limit, bool))
    rows = []
    for keep in KEEPS:
        for guidance in ("none", "anti"):
            for title, (asked, which) in groups.items():
                raw, unit = (
                    asked.ask({label: [method]}, "clip")[label]
                    for label, method in (
                        (
                            f"spare {guidance} normalize {normalize} {keep}",
                            SPARE(keep, guidance=guidance, normalize=normalize),
                        )
                        for normalize in (False, True)
                    )
                )
                rows.append(
                    [f"guidance {guidance}", keep, title, percent(raw.right[which].mean()),
                     percent(unit.right[which].mean()), unit.minus(raw, which)]
                )  # fmt: skip
    simple = [s for s in dict.fromkeys(bench.skills.tolist()) if s not in COMPOSITIONAL]
    head = ["SPARE", "tokens", "questions", "as they are", "length 1", "length 1 - as they are"]
    page.write(
        "Does magnitude matter?",
        bench,
        [
            "SPARE keeps the lengths of the features, DivPrune and CDPruner look at directions "
            "alone. With `normalize=True` SPARE does so too: everything else being equal, the "
            "difference is what magnitude is worth.\n",
            f"Compositional: {', '.join(COMPOSITIONAL)}. Simple: {', '.join(simple)}.\n",
            table(head, rows),
        ],
    )
