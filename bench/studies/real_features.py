"""Features of a trained ViT over photographs, beside pocket's: docs/studies/real_features.md.

python -m bench.studies.real_features

Needs the network (Python and Debian packages), and about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.studies.common import Page
from bench.studies.real import page as parts
from bench.studies.real.choices import (
    best_exponent,
    best_limit,
    candidates,
    exponent_name,
    limit_name,
)
from bench.studies.real.fetch import Fetched, fetch
from bench.studies.real.halves import halves
from bench.studies.real.measure import from_features
from bench.studies.real.measured import measured, outliers, rounded
from bench.studies.real.rows import gaussian, pocket
from sparevlm.hf.loading import SHIPPED

ROUNDED = ("spare", "greedy-css", "divprune", "k-center")
RIVALS = ["greedy-css", "two-stage", "divprune", "k-center", "random", "uniform"]


def study(fetched: Fetched, page: Page, *, confirm: bool = True) -> Path:
    """Measure, and write the page; `confirm=False` leaves the second half unseen."""
    first, second = halves(len(fetched.last.features))
    last, before = fetched.last.of(first), fetched.before.of(first)
    n, d = last.features[0].shape
    shipped = [pocket(len(first), name) for name in SHIPPED]
    kinds = [last, before, *shipped, gaussian(len(first), n, d)]
    plain, tried = from_features(), candidates()
    makers = {**plain, **tried}
    groups = [measured(rows, makers if rows.regions is not None else plain | _one(tried))
              for rows in kinds]  # fmt: skip
    methods = list(plain)
    long_ones = {rows.title: outliers(rows, makers) for rows in kinds[:-1]}
    exponent = best_exponent(groups[0])
    limit = best_limit(groups[0], long_ones[last.title])
    half = {name: plain[name] for name in ROUNDED}
    rounding = {
        (rows.title, str(dtype).removeprefix("torch.")): rounded(rows, half, dtype)
        for rows in kinds
        for dtype in (torch.bfloat16, torch.float16)
    }
    text = [
        parts.head(fetched, len(first), len(second)),
        parts.lengths(groups),
        parts.residuals(page, groups),
        parts.overlaps(groups[:-1]),
        parts.numerics(rounding),
        parts.injected(long_ones),
        parts.coverage(page, groups[:-1], methods),
        parts.chosen(exponent, limit, groups[0], long_ones[last.title]),
    ]
    if confirm:
        picked = [limit_name(limit), exponent_name(1)]
        if 0 < exponent < 1:
            picked.append(exponent_name(exponent))
        rivals = [*picked, *RIVALS]
        asked = {name: makers[name] for name in ("spare", *rivals)}
        rest = [rows.of(second) for rows in (fetched.last, fetched.before)]
        text.append(
            parts.confirmation(
                [measured(rows, asked) for rows in rest], rivals, outliers(rest[0], asked)
            )
        )
    text.append(parts.limits(groups, methods))
    path = page.folder / f"{page.name}.md"
    path.write_text("".join(text), encoding="utf-8")
    return path


def _one(tried: dict) -> dict:
    return {exponent_name(1): tried[exponent_name(1)]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help="page and figures")
    options = parser.parse_args()
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    print(study(fetch(), Page(options.out, "real_features")))


if __name__ == "__main__":
    main()
