"""A whole run: questions, methods and budgets in; answers, numbers and a report out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sparevlm.budgets import Budget
from sparevlm.evaluation.gallery import make_gallery
from sparevlm.evaluation.loop import ANSWERS, RUN, make_settings, run
from sparevlm.evaluation.report import results, write_report
from sparevlm.evaluation.tasks import Item, make_items

KEEPS = (0.333, 0.222, 0.111, 0.056)


def bench(
    model: Any,
    processor: Any,
    rows: Iterable[Any],
    out: str | Path,
    *,
    methods: Sequence[str] = ("spare",),
    keep: Sequence[Budget] = KEEPS,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    seeds: int = 3,
    batch: int = 25,
    max_new_tokens: int = 16,
    relevance: str = "auto",
    odd: dict[int, str] | None = None,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask every question with each method at each budget, beside the controls, and report.

    The controls are all tokens, no picture, random and evenly spread tokens, pooled tokens and the
    picture at a lower resolution. A run that was stopped goes on where it was.

    Parameters
    ----------
    model, processor
        As `sparevlm.load` gives them.
    rows : iterable of dict or of Item
        See `make_items`.
    out : str or Path
        Folder for answers.jsonl, results.json, report.md, report.html and plots.
    methods : sequence of str
        Names of `list_methods()`.
    keep : sequence of int, float or Residual
        Budgets: tokens, shares of them, or errors allowed.
    fields : mapping or None
        Settings of methods, by their names: ``{"spare": {"strength": 0.5}}``.
    seeds : int
        Draws of methods that draw.
    batch : int
        Questions at a time.
    max_new_tokens : int
        Longest answer.
    relevance : str
        As `attach` takes it.
    odd : dict or None
        Rows that were left out before, and why; reported with those found here.
    about : dict or None
        What else identifies the run.

    Returns
    -------
    dict
        What results.json holds.

    Raises
    ------
    ValueError
        If there is no such method, nothing can be asked, or `out` holds another run.
    """
    out = Path(out)
    items, unusable = _items(rows)
    settings = make_settings(methods, keep, seeds, fields)
    about = {
        "model": model.config.name_or_path,
        "task": "questions",
        **(about or {}),
        "questions": len(items),
        "content": _digest(items),
        "relevance": relevance,
        "max_new_tokens": max_new_tokens,
        "dtype": str(model.dtype),
    }
    chosen = {name: dict(values) for name, values in (fields or {}).items() if values}
    if chosen:
        about["settings"] = chosen
    gallery = make_gallery(items, settings, out, processor)
    answers, unread = run(
        model,
        processor,
        items,
        settings,
        out,
        about=about,
        batch=batch,
        max_new_tokens=max_new_tokens,
        options={"tokenizer": processor.tokenizer, "relevance": relevance},
        draw=gallery.draw,
    )
    if not answers:
        _forget(out)
        row = min(unread)
        raise ValueError(f"no question could be asked: row {row}: {unread[row]}")
    summary = results(items, settings, answers, {**(odd or {}), **unusable, **unread}, about)
    write_report(summary, out, gallery.page(items, settings, answers))
    return summary


def _items(rows: Iterable[Any]) -> tuple[list[Item], dict[int, str]]:
    rows = list(rows)
    if rows and all(isinstance(row, Item) for row in rows):
        return rows, {}
    return make_items(rows)


def _forget(out: Path) -> None:
    """Take away what a run wrote that asked nothing."""
    for name in (ANSWERS, RUN):
        (out / name).unlink(missing_ok=True)
    with suppress(OSError):  # something else lies there
        out.rmdir()


def _digest(items: Sequence[Item]) -> str:
    """Tells questions apart; the pictures are not read for it."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr((item.row, item.question, item.answers)).encode())
    return digest.hexdigest()[:16]
