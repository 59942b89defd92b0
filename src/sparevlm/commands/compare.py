"""``sparevlm compare``: a finished run beside the scores that papers print."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_compare(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "compare",
        help="put a finished run beside published scores",
        description="Put the results of lmms-eval, or of 'sparevlm bench', beside what papers "
        "print for the same model and budget, cell by cell, and say what makes them differ.",
        epilog="example: sparevlm compare logs/llava-1.5-7b/20260101_results.json",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("results", metavar="RESULTS", help="a results file, or a folder: its newest one")
    add("--as", dest="model", metavar="MODEL", help="the model's name in papers, if it is not told")
    add("--benchmark", metavar="NAME", help="what the questions of a bench are from, such as gqa")
    add("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_compare)


def _compare(args: argparse.Namespace) -> str:
    from sparevlm.evaluation.compare import compare, known_model, written
    from sparevlm.evaluation.finished import read_finished
    from sparevlm.evaluation.published import published

    known = sorted({cell.benchmark for cell in published()} - {"relative"})
    if args.benchmark is not None and args.benchmark not in known:
        raise ValueError(f"--benchmark {args.benchmark}: it is none of {', '.join(known)}")
    runs = read_finished(args.results, args.benchmark)
    comparisons = [compare(run, known_model(run.model, args.model)) for run in runs]
    if args.json:
        return json.dumps([comparison.as_dict() for comparison in comparisons], indent=1)
    return "\n\n".join(written(comparison) for comparison in comparisons)
