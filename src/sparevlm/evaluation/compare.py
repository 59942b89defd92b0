"""A finished run beside published scores, cell by cell, with what makes them differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sparevlm.evaluation.finished import Finished
from sparevlm.evaluation.published import (
    METHODS,
    SOURCES,
    TEXTVQA_WITH_OCR,
    Published,
    models,
    published,
)

_MODELS = {  # what is in a checkpoint's name, the longer ones first
    r"qwen2[._-]?5-vl-7b": "Qwen2.5-VL-7B",
    r"llava-(v1\.6|next).*7b": "LLaVA-NeXT-7B",
    r"llava-(v?1\.5).*7b": "LLaVA-1.5-7B",
}


@dataclass(frozen=True)
class Line:
    """A published row at the run's budget, beside the run.

    Attributes
    ----------
    source, method : str
    budget : int
    accounting : str
    same : bool
        Whether it is the run's own method.
    cells : dict
        Benchmark -> (published score, score of the run minus it).
    """

    source: str
    method: str
    budget: int
    accounting: str
    same: bool
    cells: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Comparison:
    """A run, the published rows beside it, and warnings."""

    run: Finished
    model: str
    budget: int
    lines: tuple[Line, ...]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": self.model,
            "method": self.run.method,
            "tokens": self.budget,
            "scores": self.run.scores,
            "published": [
                {
                    "source": line.source,
                    "paper": SOURCES[line.source],
                    "method": line.method,
                    "budget": line.budget,
                    "accounting": line.accounting,
                    "same_method": line.same,
                    "scores": {name: cell[0] for name, cell in line.cells.items()},
                    "difference": {name: round(cell[1], 4) for name, cell in line.cells.items()},
                }
                for line in self.lines
            ],
            "warnings": list(self.warnings),
        }


def known_model(name: str, chosen: str | None = None) -> str:
    """The name that papers give a checkpoint.

    Raises
    ------
    ValueError
        If there are no published scores of it.
    """
    if chosen is not None:
        if chosen not in models():
            raise ValueError(f"no published scores of {chosen!r}: there are {', '.join(models())}")
        return chosen
    for pattern, model in _MODELS.items():
        if re.search(pattern, name.lower()):
            return model
    raise ValueError(
        f"cannot tell which model {name!r} is: give --as with one of {', '.join(models())}"
    )


def compare(run: Finished, model: str) -> Comparison:
    """Put a run beside the published rows of its model: those at its budget, and the unpruned one.

    Where no row has the budget, those at the nearest are taken, and a warning says so.

    Raises
    ------
    ValueError
        If the budget is not known.
    """
    rows: dict[tuple[str, str, int, str], dict[str, float]] = {}
    cells = [cell for cell in published() if cell.model == model]
    for cell in cells:
        key = (cell.source, cell.method, cell.budget, cell.accounting)
        rows.setdefault(key, {})[cell.benchmark] = cell.score
    budget = _budget(run, cells)
    near = min(
        {key[2] for key in rows if key[1] != "full"} | {budget}, key=lambda b: _far(b, budget, rows)
    )
    ours = METHODS.get(run.method, run.method)
    lines = []
    for (source, method, kept, accounting), scores in rows.items():
        if kept != near and method != "full":
            continue
        shared = {name: (scores[name], run.scores[name] - scores[name])
                  for name in run.scores if name in scores}  # fmt: skip
        if shared:
            lines.append(Line(source, method, kept, accounting, method == ours, shared))
    return Comparison(run, model, budget, tuple(lines), tuple(_warnings(run, model, lines, budget)))


def _far(kept: int, budget: int, rows: dict[Any, Any]) -> tuple[bool, float]:
    """Budgets that have rows first, then the nearest by ratio."""
    published = any(key[2] == kept for key in rows)
    return not published, abs(kept - budget) / max(budget, 1)


def _budget(run: Finished, cells: Sequence[Published]) -> int:
    full = max(cell.budget for cell in cells)
    if run.method == "none":
        return full
    if run.tokens is not None:
        return round(run.tokens)
    text = run.keep.rstrip("%")
    try:
        share = float(text) / (100 if run.keep.endswith("%") else 1)
    except ValueError:
        raise ValueError(
            f"the run does not say how many tokens were kept (keep={run.keep!r})"
        ) from None
    return round(share * full) if share <= 1 else round(share)


def _warnings(run: Finished, model: str, lines: Sequence[Line], budget: int) -> list[str]:
    warnings = []
    average = sorted({line.method for line in lines if line.accounting == "average"})
    if average and run.method != "none":
        warnings.append(
            f"token accounting: {', '.join(average)} are quoted at {lines[-1].budget} tokens "
            "averaged over the layers of the language model; this run counts the tokens that "
            "enter it"
        )
    near = {line.budget for line in lines if line.method != "full"}
    if near and near != {budget} and run.method != "none":
        warnings.append(f"budget: this run kept {budget} tokens, the rows beside it {near.pop()}")
    theirs = {name for line in lines for name in line.cells}
    for name in run.scores:
        if name not in theirs:
            warnings.append(f"{name}: no published score at this budget")
    if "mme_p" in run.scores:
        kinds = {cell.benchmark for cell in published() if cell.model == model}
        if {"mme_p", "mme_pc"} & kinds:
            warnings.append(
                "MME: papers print perception (mme_p) or perception and cognition added up "
                "(mme_pc); each is compared with its own kind only"
            )
        if "mme_pc" not in run.scores:
            warnings.append(
                "MME: this run has perception alone, so rows that add cognition are left out"
            )
    if "textvqa" in run.scores:
        wanted = model in TEXTVQA_WITH_OCR
        if run.ocr is None:
            warnings.append("TextVQA: the run does not say whether its prompts hold OCR tokens")
        elif run.ocr != wanted:
            warnings.append(
                f"TextVQA: published scores of {model} are "
                f"{'with' if wanted else 'without'} OCR tokens in the prompt, this run is "
                f"{'with' if run.ocr else 'without'} them: not comparable"
            )
    return [*warnings, *run.remarks]


def written(comparison: Comparison) -> str:
    """A table for the terminal: the run, then each published row with the difference."""
    run = comparison.run
    names = [name for name in run.scores if name != "relative"]
    head = ["", "tokens", *names]
    body = [[f"this run: {run.method}", f"{comparison.budget}",
             *(f"{run.scores[name]:.1f}" for name in names)]]  # fmt: skip
    for line in comparison.lines:
        mark = "= " if line.same else "  "
        about = "~" if line.accounting == "average" else ""
        body.append([f"{mark}{line.method} ({line.source})", f"{about}{line.budget}",
                     *(_cell(line.cells.get(name)) for name in names)])  # fmt: skip
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    rows = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *body)
    ]
    sources = sorted({line.source for line in comparison.lines})
    notes = [
        f"{comparison.model}; in brackets this run minus the published score; = the same method; "
        "~ tokens averaged over layers",
        *(f"{source}: {SOURCES[source]}" for source in sources),
        *(f"warning: {warning}" for warning in comparison.warnings),
    ]
    return "\n".join([*(row.rstrip() for row in rows), "", *notes])


def _cell(value: tuple[float, float] | None) -> str:
    return "-" if value is None else f"{value[0]:g} ({value[1]:+.1f})"
