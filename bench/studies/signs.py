"""CDPruner's relevance with either sign, in CLIP's space and in the language model's."""

from __future__ import annotations

from bench.studies.common import Bench, Page, percent, table
from sparevlm import CDPruner

KEPT = (44, 22, 11)
SPACES = {"CLIP": "clip", "word embeddings": "llm"}


def study(test: Bench, page: Page) -> None:
    """Of validation questions, since a default may follow from it."""
    bench = Bench(test.out.parent, test.limit, "validation", test.scenes)
    rows = []
    for keep in KEPT:
        label = f"cdpruner {keep}"
        plain = bench.ask({label: [CDPruner(keep)]}, "none")[label]
        for space, relevance in SPACES.items():
            asked = {f"cdpruner {s} {keep}": [CDPruner(keep, sign=s)] for s in ("minus", "plus")}
            minus, plus = bench.ask(asked, relevance).values()
            accuracies = [percent(one.accuracy) for one in (plain, minus, plus)]
            differences = [plus.minus(minus), minus.minus(plain), plus.minus(plain)]
            rows.append([space, keep, *accuracies, *differences])
    head = ["compared in", "tokens", "no question", "minus", "plus"]
    head += ["plus - minus", "minus - no question", "plus - no question"]
    page.write(
        "Which sign CDPruner's relevance should have",
        bench,
        [
            "CDPruner weighs a token by minus its similarity with the question, in CLIP's space, "
            "the only one that its authors' program knows. OpenVINO GenAI's implementation takes "
            "plus outside CLIP, the language model's embeddings, in another kernel. Here the "
            "kernel is the authors', and the sign alone differs.\n",
            table(head, rows),
        ],
    )
