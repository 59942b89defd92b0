"""``sparevlm bench``: accuracy of methods at several budgets, on scenes or a user's questions."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparevlm.budgets import read_budgets
from sparevlm.commands.fields import add_set, read_set
from sparevlm.commands.terminal import quiet
from sparevlm.guide import RELEVANCE

KEEPS = "33.3%,22.2%,11.1%,5.6%"
SCENES = {"pocket": "plain", "dense": "dense", "pictograms": "pictograms"}
SPLITS = ("test", "validation")


def add_bench(commands: Any) -> None:
    """Add the command."""
    bench = commands.add_parser(
        "bench",
        help="measure accuracy with pruning, beside controls",
        description="Ask a model many questions with each method at each budget, with all tokens, "
        "with no picture and with the controls; a run that was stopped goes on where it was.",
        epilog="example: sparevlm bench --methods spare,divprune --keep 22,11 --limit 500 "
        "--out out/bench",
        allow_abbrev=False,
    )
    add = bench.add_argument
    add("--model", default="pocket", metavar="NAME", help="see 'sparevlm ask' (default: pocket)")
    add(
        "--task",
        default="pocket:test",
        metavar="TASK",
        help="drawn scenes (pocket:test, dense:test, pictograms:test, or :validation), or a .jsonl "
        "or .parquet file with image, question, answer and perhaps skill (default: %(default)s)",
    )
    add("--methods", default="spare", metavar="A,B", help="names, or all (default: spare)")
    add(
        "--keep",
        default=KEEPS,
        metavar="K,K",
        help="budgets: tokens, shares of them, or errors allowed (Residual(0.05)) "
        "(default: %(default)s)",
    )
    add_set(add)
    add("--limit", type=int, metavar="N", help="questions (default: 2000 scenes, a whole file)")
    add("--seeds", type=int, default=3, metavar="N", help="draws of methods that draw (default: 3)")
    add("--batch", type=int, default=25, metavar="N", help="questions at a time (default: 25)")
    add("--max-new-tokens", type=int, default=16, metavar="N", help="longest answer (default: 16)")
    add("--relevance", default="auto", choices=RELEVANCE, help="see ask")
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of the model")
    add("--device", metavar="NAME", help="cpu, cuda, ... (default: an accelerator)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for answers and report")
    bench.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> str:
    missing = [name for name in ("scipy", "tqdm") if find_spec(name) is None]
    if missing:
        raise ValueError(f"bench needs {' and '.join(missing)}: pip install 'sparevlm[bench]'")
    for name in ("limit", "seeds", "batch", "max_new_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least 1")

    from sparevlm import evaluation, hf
    from sparevlm.methods import list_methods

    names = list_methods() if args.methods == "all" else args.methods.split(",")
    keeps = read_budgets(args.keep)
    names = [name.strip() for name in names]
    fields = read_set(args.set, names)
    evaluation.make_settings(names, keeps, args.seeds, fields)  # before anything is loaded
    items, odd = _items(args)
    with quiet():
        model, processor = hf.load(args.model, dtype=args.dtype, device=args.device)
        summary = evaluation.bench(
            model,
            processor,
            items,
            args.out,
            methods=names,
            keep=keeps,
            fields=fields,
            seeds=args.seeds,
            batch=args.batch,
            max_new_tokens=args.max_new_tokens,
            relevance=args.relevance,
            odd=odd,
            about={"model": args.model, "task": args.task},
        )
    left = len(summary["left_out"])
    said = f"{left} question{'s were' if left > 1 else ' was'} left out, see report.md; "
    files = ", ".join(str(args.out / name) for name in ("report.html", "report.md", "results.json"))
    return f"{said if left else ''}written: {files}"


def _items(args: argparse.Namespace) -> Any:
    from sparevlm.evaluation import pocket_items, read_items

    kind, _, split = args.task.partition(":")
    if kind not in SCENES:
        return read_items(args.task, args.limit)
    if split not in SPLITS:
        raise ValueError(f"--task {args.task}: give {kind}:{f', {kind}:'.join(SPLITS)}, or a file")
    return pocket_items(split, args.limit or 2000, SCENES[kind]), {}
