"""Does the length of a feature vector matter? The same methods with features scaled to length 1."""

from __future__ import annotations

from bench.studies.common import COMPOSITIONAL, KEEPS, Bench, Page, percent, table
from sparevlm import SPARE


def study(bench: Bench, page: Page) -> None:
    kinds = {"plain": (bench, bench.of(COMPOSITIONAL))}
    parts = [
        "SPARE keeps the lengths of the features, DivPrune and CDPruner look at directions alone. "
        "With `normalize=True` SPARE does so too: everything else being equal, the difference is "
        "what magnitude is worth.\n"
    ]
    rows = []
    for keep in KEEPS:
        for guidance in ("none", "anti"):
            found = {}
            for normalize in (False, True):
                label = f"spare {guidance} normalize {normalize} {keep}"
                method = SPARE(keep, guidance=guidance, normalize=normalize)
                found[normalize] = bench.ask({label: [method]}, "clip")[label]
            raw, unit = found[False], found[True]
            for title, those in (
                ("compositional", kinds["plain"][1]),
                ("simple", ~kinds["plain"][1]),
            ):
                rows.append(
                    [f"guidance {guidance}", keep, title, percent(raw.right[those].mean()),
                     percent(unit.right[those].mean()), unit.minus(raw, those)]
                )  # fmt: skip
    simple = [s for s in dict.fromkeys(bench.skills.tolist()) if s not in COMPOSITIONAL]
    parts += [
        f"Compositional: {', '.join(COMPOSITIONAL)}. Simple: {', '.join(simple)}.\n",
        table(["SPARE", "tokens", "questions", "as they are", "length 1", "length 1 - as they are"],
              rows),
    ]  # fmt: skip
    page.write("Does magnitude matter?", bench, parts)
