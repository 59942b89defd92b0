"""Run studies on the pocket model and write docs/studies/*.md with their figures.

python -m bench.studies ablation --limit 1000
python -m bench.studies all
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.studies import (
    ablation,
    budgets,
    magnitude,
    natural,
    positions,
    reconstruction,
    relevance,
    signs,
)
from bench.studies.common import Bench, Page, Study

STUDIES: dict[str, Study] = {
    "relevance": relevance.study,
    "ablation": ablation.study,
    "reconstruction": reconstruction.study,
    "magnitude": magnitude.study,
    "positions": positions.study,
    "budgets": budgets.study,
    "signs": signs.study,
    "natural": natural.study,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=(*STUDIES, "all"))
    parser.add_argument("--limit", type=int, default=1000, help="questions (default: 1000)")
    parser.add_argument("--answers", type=Path, default=Path("out/studies"), help="kept answers")
    parser.add_argument("--out", type=Path, default=Path("docs/studies"), help="pages and figures")
    options = parser.parse_args()
    torch.manual_seed(0)
    options.out.mkdir(parents=True, exist_ok=True)
    for name, study in STUDIES.items():
        if options.study in (name, "all"):
            study(Bench(options.answers, options.limit), Page(options.out, name))
            print(options.out / f"{name}.md")


if __name__ == "__main__":
    main()
