"""``sparevlm speed``: time and memory with and without pruning, on this machine."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparevlm.budgets import read_budgets
from sparevlm.commands.fields import add_set, read_set
from sparevlm.commands.terminal import quiet

KEEPS = "33.3%,22.2%,11.1%,5.6%"


def add_speed(commands: Any) -> None:
    """Add the command."""
    speed = commands.add_parser(
        "speed",
        help="measure time and memory with pruning",
        description="Time a model with all tokens and with each method at each budget, in turn: "
        "encoder, selection, prefill, first token, decoding; and what they need of memory. "
        "Weights are random, which changes no time.",
        epilog="example: sparevlm speed --shapes pocket --methods spare,divprune --batch 1,8 "
        "--out out/speed",
        allow_abbrev=False,
    )
    add = speed.add_argument
    add(
        "--shapes",
        default="pocket",
        metavar="A,B",
        help="pocket, llava-1.5-7b, llava-1.5-13b, llava-next-7b, qwen2.5-vl-7b, qwen3-vl-8b, or "
        "a directory with a config.json (default: pocket)",
    )
    add("--methods", default="spare", metavar="A,B", help="names, or all (default: spare)")
    add("--keep", default=KEEPS, metavar="K,K", help="shares of the tokens (default: %(default)s)")
    add_set(add)
    add("--batch", default="1", metavar="B,B", help="rows of a call (default: 1)")
    add("--text", default="64", metavar="W,W", help="words beside the picture (default: 64)")
    add("--repeats", type=int, default=7, metavar="N", help="after a warm-up (default: 7)")
    add("--new-tokens", type=int, default=8, metavar="N", help="to decode (default: 8)")
    add("--layers", type=int, metavar="N", help="cut the language model to so many layers")
    add("--attention", default="sdpa", metavar="NAME", help="implementation (default: sdpa)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16 on a GPU")
    add("--device", metavar="NAME", help="cpu, cuda, ... (default: an accelerator)")
    add("--out", required=True, type=Path, metavar="DIR", help="folder for numbers and report")
    speed.set_defaults(run=_speed)


def _speed(args: argparse.Namespace) -> str:
    if find_spec("tqdm") is None:
        raise ValueError("speed needs tqdm: pip install 'sparevlm[bench]'")
    batches, texts = _numbers(args.batch, "--batch"), _numbers(args.text, "--text")
    for name, least in (("repeats", 1), ("new_tokens", 2), ("layers", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least {least}")
    keeps = read_budgets(args.keep)
    if not all(isinstance(keep, float) and keep < 1 for keep in keeps):
        raise ValueError(f"--keep {args.keep}: give shares below 1, such as 0.11 or 11%")

    import torch

    from sparevlm import speed
    from sparevlm.methods import list_methods, method_class, read_method
    from sparevlm.progress import progress_bar

    names = list_methods() if args.methods == "all" else args.methods.split(",")
    names = [name.strip() for name in names]
    values = read_set(args.set, names)
    methods = [
        read_method(name, keep, values[method_class(name).name]) for name in names for keep in keeps
    ]
    if args.device is None:
        found = torch.accelerator.is_available() and torch.accelerator.current_accelerator()
        args.device = found.type if found else "cpu"
    dtype = getattr(torch, args.dtype or ("float32" if args.device == "cpu" else "bfloat16"))
    shapes = [shape.strip() for shape in args.shapes.split(",")]
    for name in shapes:
        speed.check_shape(name)
    calls = [(batch, words) for batch in batches for words in texts]
    total = len(shapes) * len(calls) * args.repeats * (len(methods) + 1)
    models: dict[str, Any] = {}
    with quiet(), progress_bar(total, "call", "speed") as bar:
        for name in shapes:
            subject = speed.subject(
                name, dtype=dtype, device=args.device, attention=args.attention, layers=args.layers
            )
            models[name] = [
                row.to_dict()
                for batch, words in calls
                for row in speed.measure(
                    subject, methods, batch=batch, words=words, repeats=args.repeats,
                    new_tokens=args.new_tokens, progress=bar.update,
                )
            ]  # fmt: skip
            del subject
            speed.write_report({"about": _about(args, dtype), "models": models}, args.out)
    return f"written: {args.out / 'report.md'}, {args.out / 'results.json'}"


def _numbers(text: str, option: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{option} {text}: give positive numbers, such as 1,8")
    return numbers


def _about(args: argparse.Namespace, dtype: Any) -> dict[str, Any]:
    """What ran where."""
    import torch
    import transformers

    from sparevlm.selection.compiled import compiled

    gpu = torch.cuda.get_device_name() if args.device.startswith("cuda") else None
    about = {
        "device": gpu or f"CPU ({platform.machine()}), {torch.get_num_threads()} threads",
        "dtype": str(dtype).removeprefix("torch."),
        "attention": args.attention,
        "repeats": args.repeats,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    if gpu is None:
        made = f"compiled (numba {version('numba')})" if compiled() else "numpy"
        about["loops of selection"] = made
    if args.layers is not None:
        about["layers"] = f"the language model cut to {args.layers}"
    return about
