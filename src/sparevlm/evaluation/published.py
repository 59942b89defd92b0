"""Published scores of pruning methods, with their sources (published.csv)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

SOURCES = {
    "AgilePruner": "arXiv 2603.01236, the authors' page",
    "CDPruner": "arXiv 2506.10967",
    "FasterVLM": "arXiv 2412.01818v1",
    "MMTok": "arXiv 2508.18264",
    "ProViP": "the paper of ProViP",
    "SPARE": "arXiv 2606.18681, abstract",
    "TRIO": "the paper of TRIO",
    "VisPruner": "arXiv 2412.01818v2",
    "VisionZip": "arXiv 2412.04467",
}
"""Paper that a row was read from: it need not be the paper of the row's method."""

METHODS = {
    "agilepruner": "AgilePruner",
    "apet": "ApET",
    "cdpruner": "CDPruner",
    "dart": "DART",
    "divprune": "DivPrune",
    "mmtok": "MMTok",
    "no-image": "no image",
    "none": "full",
    "prumerge": "PruMerge+",
    "scope": "SCOPE",
    "spare": "SPARE",
    "trim": "TRIM",
    "vispruner": "VisPruner",
    "visionzip": "VisionZip",
}
"""Our name of a method -> the name that tables give it."""

TEXTVQA_WITH_OCR = frozenset({"LLaVA-1.5-7B", "LLaVA-NeXT-7B"})
"""Models whose published TextVQA scores come from prompts that hold the OCR tokens."""


@dataclass(frozen=True)
class Published:
    """One cell of a paper's table.

    Attributes
    ----------
    source : str
        A key of `SOURCES`.
    model, method : str
        As papers write them; "full" is the unpruned model.
    budget : int
        Visual tokens kept.
    accounting : str
        "real": so many enter the language model; "average": averaged over its layers.
    benchmark : str
        mme_p is perception, mme_pc perception and cognition; relative: the paper's own average.
    score : float
        As printed: percent for most.
    """

    source: str
    model: str
    method: str
    budget: int
    accounting: str
    benchmark: str
    score: float


@lru_cache(maxsize=1)
def published() -> tuple[Published, ...]:
    """Every cell, in the order of the tables."""
    text = files("sparevlm.evaluation").joinpath("published.csv").read_text(encoding="utf-8")
    return tuple(
        Published(**row | {"budget": int(row["budget"]), "score": float(row["score"])})  # type: ignore[arg-type]
        for row in csv.DictReader(text.splitlines())
    )


def models() -> list[str]:
    """Models that have published scores."""
    return list(dict.fromkeys(cell.model for cell in published()))
