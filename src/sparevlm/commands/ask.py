"""``sparevlm ask``: a question about pictures, with few of their visual tokens."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from sparevlm.budgets import is_integer
from sparevlm.commands.fields import add_set, read_set
from sparevlm.commands.terminal import one_line, progress, quiet, table, warn
from sparevlm.guide import RELEVANCE

if TYPE_CHECKING:
    from PIL import Image

    from sparevlm.hf import ImageReport
    from sparevlm.methods import PruningMethod

KEEP = 0.0625  # 6 % of the tokens: 12 of the pocket model's 196
SETTINGS = ("guidance", "positions", "seed")  # options that are fields of a method


def add_ask(commands: Any) -> argparse.ArgumentParser:
    """Add the command."""
    ask: argparse.ArgumentParser = commands.add_parser(
        "ask",
        help="ask a model about pictures, with few of their visual tokens",
        description="Ask a vision-language model about one or more pictures after pruning their "
        "visual tokens.",
        epilog='example: sparevlm ask scene.png "what color is the heart ?" --keep 16 --compare '
        "--save kept.png",
        allow_abbrev=False,
    )
    add = ask.add_argument
    add("pictures", nargs="+", metavar="IMAGE", help="picture files")
    add("question", metavar="QUESTION", help="what to ask about them")
    add(
        "--model",
        metavar="NAME",
        help="pocket (shipped, the default), pocket-natural (its successor, shipped too), a model "
        "directory or a hub name",
    )
    add("--url", metavar="URL", help="ask a server instead, such as vLLM with sparevlm in it")
    add(
        "--method",
        metavar="NAME",
        help="pruning method, see 'sparevlm methods' (default: spare)",
    )
    add(
        "--keep",
        metavar="K",
        help="tokens per picture (16), their share (0.06 or 6%%), or the error allowed "
        f"(Residual(0.05)) (default: {KEEP})",
    )
    add("--guidance", metavar="WORD", help="anti, normal or none (methods that read the question)")
    add("--positions", metavar="WORD", help="position ids of kept tokens: auto, compact, original")
    add("--seed", type=int, metavar="N", help="seed of methods that draw")
    add(
        "--relevance",
        choices=RELEVANCE,
        help="what compares picture and question (default: auto)",
    )
    add("--compare", action="store_true", help="ask with all tokens too")
    add_set(add)
    add("--save", metavar="FILE", help="draw the kept tokens into this picture")
    add("--force", action="store_true", help="let --save replace a file")
    add("--json", action="store_true", help="print one JSON object")
    add(
        "--max-new-tokens",
        type=int,
        default=64,
        metavar="N",
        help="longest answer in tokens (default: %(default)s)",
    )
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of the model")
    add("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps, ... (default: an accelerator)")
    ask.set_defaults(run=_ask)
    return ask


def _ask(args: argparse.Namespace) -> str:
    question = args.question.strip()
    if not question:
        raise ValueError("the question is empty: ask something about the picture")
    if args.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens {args.max_new_tokens}: it must be at least 1")
    if args.url is not None:
        from sparevlm.commands.server import ask_server, settings_of

        settings_of(args)  # before the pictures are read
        said = ask_server(args, _open_pictures(args))
        return json.dumps(said) if args.json else _served_table(said)
    method = _make_method(args)
    pictures = _open_pictures(args)
    _check_device(args.device)
    name = args.model or "pocket"

    from sparevlm import asking, hf

    with quiet():
        progress(f"loading {name}")
        model, processor = hf.load(name, dtype=args.dtype, device=args.device)
        inputs = asking.prepare(model, processor, pictures, question)
        unknown = asking.unknown_words(processor, question)
        if unknown:
            warn(f"the model does not know these words: {', '.join(unknown)}")
        progress("answering")
        relevance = args.relevance or "auto"
        options = {"tokenizer": processor.tokenizer, "relevance": relevance}
        with method.attach(model, question=question, **options) as handle:
            pruned = asking.answer(model, processor, inputs, args.max_new_tokens, handle)
        full = (
            asking.answer(model, processor, inputs, args.max_new_tokens) if args.compare else None
        )
    _say_if_all_stay(method.keep, pruned.report)
    if args.save:
        _save_overlay(pictures, pruned.report, processor, args.save)
    result = {
        "question": question,
        "answer": pruned.text,
        "full_answer": full.text if full else None,
        "method": method.name,
        "model": name,
        "visual_tokens": sum(picture.before for picture in pruned.report),
        "kept_tokens": sum(picture.after for picture in pruned.report),
        **_layers(pruned.report),
        "selection_ms": round(sum(picture.milliseconds for picture in pruned.report), 3),
        "prefill_ms": round(pruned.first_ms, 3),
        "full_prefill_ms": round(full.first_ms, 3) if full else None,
        "picture": args.save,
    }
    return json.dumps(result) if args.json else _answer_table(result)


def _layers(report: list[ImageReport]) -> dict[str, Any]:
    """What methods inside the language model leave on average, and to which layers."""
    if not any(picture.stages for picture in report):
        return {}
    layers = sorted({layer for picture in report for layer in picture.stages or ()})
    return {
        "average_tokens": round(sum(picture.tokens for picture in report), 1),
        "schedule": {
            layer: sum(len((picture.stages or {})[layer]) for picture in report) for layer in layers
        },
    }


def _make_method(args: argparse.Namespace) -> PruningMethod:
    from sparevlm.methods import read_method

    name = "spare" if args.method is None else args.method
    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    for values in read_set(args.set, [name]).values():
        settings |= values
    return read_method(name, KEEP if args.keep is None else args.keep, settings)


def _say_if_all_stay(keep: Any, report: list[ImageReport]) -> None:
    """Warn where a number of tokens is more than a picture has."""
    most = max((picture.before for picture in report), default=0)
    if is_integer(keep) and keep > most > 0:
        warn(f"--keep {keep}: the picture has {most} tokens, and all of them stay")


def _open_pictures(args: argparse.Namespace) -> list[Image.Image]:
    from sparevlm.images import open_picture

    pictures = [open_picture(path) for path in args.pictures]
    if args.save is None:
        return pictures
    from sparevlm.viz import check_target

    target = check_target(args.save)
    if target.exists() and any(os.path.samefile(target, path) for path in args.pictures):
        raise ValueError(f"--save {args.save} would overwrite the picture asked about: rename it")
    if target.exists() and not args.force:
        raise ValueError(f"--save {args.save} exists: give another name, or --force to replace it")
    return pictures


def _check_device(name: str | None) -> None:
    if name is None:
        return
    import torch

    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError):  # AssertionError: torch built without CUDA
        raise ValueError(
            f"device {name!r} is not to be had here: use cpu, or leave --device out"
        ) from None


def _save_overlay(
    pictures: list[Image.Image], report: list[ImageReport], processor: Any, path: str
) -> None:
    from sparevlm import viz

    drawn = [
        viz.overlay(picture, kept, processor)
        for picture, kept in zip(pictures, report, strict=True)
    ]
    viz.save(viz.side_by_side(drawn), path)


def _answer_table(result: dict[str, Any]) -> str:
    rows = [("", "first token", "selection", "answer")]
    if result["full_prefill_ms"] is not None:
        label = f"all {result['visual_tokens']} tokens"
        rows.append((label, f"{result['full_prefill_ms']:.1f} ms", "", result["full_answer"]))
    label = f"{result['method']} {result['kept_tokens']} tokens"
    if "average_tokens" in result:
        label = f"{result['method']} {result['average_tokens']:.0f} tokens on average"
    if result["full_prefill_ms"] is None:
        label += f" of {result['visual_tokens']}"
    times = f"{result['prefill_ms']:.1f} ms", f"{result['selection_ms']:.1f} ms"
    rows.append((label, *times, result["answer"]))
    shown = [(*row[:3], one_line(row[3]) or "(no answer)") for row in rows]
    lines = [one_line(result["question"]), "", *table(shown, right=(1, 2))]
    if result["picture"]:
        lines += ["", f"kept tokens drawn in {result['picture']}"]
    return "\n".join(lines)


def _served_table(result: dict[str, Any]) -> str:
    rows = [("", "first token", "answer")]
    for label, part in (("all tokens", "full_"), ("pruned", "")):
        if result[f"{part}prefill_ms"] is not None:
            prompt = result[f"{part}prompt_tokens"]
            label += "" if prompt is None else f", a prompt of {prompt}"
            answer = one_line(result[f"{part}answer"]) or "(no answer)"
            rows.append((label, f"{result[f'{part}prefill_ms']:.1f} ms", answer))
    return "\n".join([one_line(result["question"]), "", *table(rows, right=(1,))])
