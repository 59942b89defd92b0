"""The command ``sparevlm``.

Results go to stdout, everything else to stderr. Bad input is one line on stderr and exit code 2.
Heavy imports wait inside the commands, so that --help and --version are quick.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, NoReturn

from sparevlm.bench_command import add_bench
from sparevlm.budgets import read_budget
from sparevlm.chat import tokenized
from sparevlm.compare_command import add_compare
from sparevlm.speed_command import add_speed

if TYPE_CHECKING:
    from PIL import Image

    from sparevlm.hf import ImageReport
    from sparevlm.methods import PruningMethod

KEEP = 0.0625  # 6 % of the tokens: 12 of the pocket model's 196
SETTINGS = ("guidance", "positions", "seed")  # options that are fields of a method
LONGEST_ERROR = 600  # characters; transformers can list every model it knows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments without the program's name; None: those of the process.

    Returns
    -------
    int
        Exit code: 0 done, 1 a failure of ours (or a closed pipe), 2 bad input, 130 interrupted.
    """
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader has gone: keep Python from flushing into the pipe again
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(argv: list[str]) -> int:
    try:
        args = _parse(argv)
        with _own_warnings():
            result = args.run(args)
        print(result)
        sys.stdout.flush()
    except SystemExit as stop:  # --help and --version have printed already
        sys.stdout.flush()
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        raise
    except Exception as error:
        return _report_error(error)
    return 0


def _report_error(error: Exception) -> int:
    if os.environ.get("SPAREVLM_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    expected = isinstance(
        error, ValueError | OSError | TypeError | RuntimeError | MemoryError | ImportError
    )
    words = _one_line(str(error)) or type(error).__name__
    if len(words) > LONGEST_ERROR:
        words = words[:LONGEST_ERROR] + " ..."
    if not expected:
        words = f"{type(error).__name__}: {words} (SPAREVLM_DEBUG=1 shows where)"
    print(f"sparevlm: error: {words}", file=sys.stderr)
    return 2 if expected else 1


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _warn(text: str) -> None:
    print(f"sparevlm: warning: {_one_line(text)}", file=sys.stderr)


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Show warnings of ours, one line each, and no others (Pillow's, transformers')."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", category=UserWarning, module=r"sparevlm(\.|$)")
        warnings.showwarning = lambda message, *_, **__: _warn(str(message))
        yield


def _progress(text: str) -> None:
    if sys.stderr.isatty():  # for people, not for logs
        print(f"sparevlm: {text} ...", file=sys.stderr)


# ---------------------------------------------------------------- arguments


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are ours: one line, no usage before it."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(
        prog="sparevlm",
        description="Training-free visual token pruning for vision-language models.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"sparevlm {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    ask = _add_ask(commands)
    add_bench(commands, _quiet)
    add_compare(commands)
    add_speed(commands, _quiet)
    for name, run, words in (
        ("methods", _methods, "list the pruning methods and their settings"),
        ("models", _models, "list the model families that are supported"),
    ):
        listing = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        listing.add_argument("--json", action="store_true", help="print a JSON array")
        listing.set_defaults(run=run)
    if argv[:1] == ["ask"]:  # pictures and question may stand on both sides of the options
        return ask.parse_intermixed_args(argv[1:])
    return parser.parse_args(argv)


def _add_ask(commands: Any) -> argparse.ArgumentParser:
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
        help="pocket (shipped, the default), a model directory or a hub name",
    )
    add("--url", metavar="URL", help="ask a server instead, such as vLLM with sparevlm in it")
    add(
        "--method",
        metavar="NAME",
        help="pruning method, see 'sparevlm methods' (default: spare)",
    )
    add(
        "--keep",
        type=read_budget,
        metavar="K",
        help=f"tokens per picture (16), or their share (0.06 or 6%%) (default: {KEEP})",
    )
    add("--guidance", metavar="WORD", help="anti, normal or none (methods that read the question)")
    add("--positions", metavar="WORD", help="position ids of kept tokens: auto, compact, original")
    add("--seed", type=int, metavar="N", help="seed of methods that draw")
    add(
        "--relevance",
        choices=("auto", "clip", "llm", "none"),
        help="what compares picture and question (default: auto)",
    )
    add("--compare", action="store_true", help="ask with all tokens too")
    add("--save", metavar="FILE", help="draw the kept tokens into this picture")
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


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("sparevlm")
    except PackageNotFoundError:  # run from a source tree
        return "(not installed)"


# ---------------------------------------------------------------- ask


@dataclass(frozen=True)
class _Answer:
    """An answer, when its first token came, and what was pruned for it."""

    text: str
    prefill_ms: float
    report: list[ImageReport]


class _FirstToken:
    """A streamer that notes when the first new token arrives; the prompt comes before it."""

    def __init__(self) -> None:
        self.calls, self.when = 0, 0.0

    def put(self, value: Any) -> None:
        self.calls += 1
        if self.calls == 2:
            self.when = time.perf_counter()

    def end(self) -> None:
        pass


def _ask(args: argparse.Namespace) -> str:
    question = args.question.strip()
    if not question:
        raise ValueError("the question is empty: ask something about the picture")
    if args.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens {args.max_new_tokens}: it must be at least 1")
    if args.url is not None:
        from sparevlm.ask_server import ask_server, settings_of

        settings_of(args)  # before the pictures are read
        said = ask_server(args, _open_pictures(args))
        return json.dumps(said) if args.json else _served_table(said)
    method = _make_method(args)
    pictures = _open_pictures(args)
    _check_device(args.device)
    name = args.model or "pocket"

    from sparevlm import hf

    with _quiet():
        _progress(f"loading {name}")
        model, processor = hf.load(name, dtype=args.dtype, device=args.device)
        inputs = _prepare(model, processor, pictures, question)
        _progress("answering")
        relevance = args.relevance or "auto"
        options = {"tokenizer": processor.tokenizer, "relevance": relevance}
        with method.attach(model, question=question, **options) as handle:
            pruned = _answer(model, processor, inputs, args.max_new_tokens, handle)
        full = _answer(model, processor, inputs, args.max_new_tokens) if args.compare else None
    if args.save:
        _save_overlay(pictures, pruned.report, processor, args.save)
    found = {
        "question": question,
        "answer": pruned.text,
        "full_answer": full.text if full else None,
        "method": method.name,
        "model": name,
        "visual_tokens": sum(picture.before for picture in pruned.report),
        "kept_tokens": sum(picture.after for picture in pruned.report),
        **_layers(pruned.report),
        "selection_ms": round(sum(picture.milliseconds for picture in pruned.report), 3),
        "prefill_ms": round(pruned.prefill_ms, 3),
        "full_prefill_ms": round(full.prefill_ms, 3) if full else None,
        "picture": args.save,
    }
    return json.dumps(found) if args.json else _answer_table(found)


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
    from sparevlm.methods import get_method

    settings = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    keep = KEEP if args.keep is None else args.keep
    return get_method("spare" if args.method is None else args.method, keep, **settings)


def _open_pictures(args: argparse.Namespace) -> list[Image.Image]:
    from sparevlm.images import open_picture

    pictures = [open_picture(path) for path in args.pictures]
    if args.save is None:
        return pictures
    from sparevlm.viz import check_target

    target = check_target(args.save)
    if target.exists() and any(os.path.samefile(target, path) for path in args.pictures):
        raise ValueError(f"--save {args.save} would overwrite the picture asked about: rename it")
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


def _prepare(model: Any, processor: Any, pictures: list[Image.Image], question: str) -> Any:
    """Tokens and pixels of one prompt: all pictures, then the question."""
    mark = getattr(processor, "image_token", None)
    if mark and mark in question:
        raise ValueError(f"the question holds {mark!r}, the model's mark for a picture: remove it")
    _warn_unknown(processor.tokenizer, question)
    content: list[dict[str, str]] = [{"type": "image"} for _ in pictures]
    content.append({"type": "text", "text": question})
    messages = [{"role": "user", "content": content}]
    return tokenized(processor, [messages], [pictures]).to(model.device, model.dtype)


def _warn_unknown(tokenizer: Any, question: str) -> None:
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return
    words = [
        word
        for word in question.split()
        if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]
    if words:
        _warn(f"the model does not know these words: {', '.join(words)}")


def _answer(
    model: Any, processor: Any, inputs: Any, max_new_tokens: int, handle: Any = None
) -> _Answer:
    """Answer greedily, after a short warm-up of the same kind."""
    options = {"do_sample": False, "num_beams": 1}
    model.generate(**inputs, **options, max_new_tokens=2)
    clock, start = _FirstToken(), time.perf_counter()
    ids = model.generate(**inputs, **options, max_new_tokens=max_new_tokens, streamer=clock)
    new = ids[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return _Answer(text, 1000 * (clock.when - start), list(handle.report) if handle else [])


def _save_overlay(
    pictures: list[Image.Image], report: list[ImageReport], processor: Any, path: str
) -> None:
    from sparevlm import viz

    drawn = [
        viz.overlay(picture, found, processor)
        for picture, found in zip(pictures, report, strict=True)
    ]
    viz.save(viz.side_by_side(drawn), path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers off stdout, and its chatter off stderr."""
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    loggers = [(log, log.get_verbosity()) for log in (logging, hub_logging)]
    for log, _ in loggers:
        log.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        for log, verbosity in loggers:
            log.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _answer_table(found: dict[str, Any]) -> str:
    rows = [("", "first token", "selection", "answer")]
    if found["full_prefill_ms"] is not None:
        label = f"all {found['visual_tokens']} tokens"
        rows.append((label, f"{found['full_prefill_ms']:.1f} ms", "", found["full_answer"]))
    label = f"{found['method']} {found['kept_tokens']} tokens"
    if "average_tokens" in found:
        label = f"{found['method']} {found['average_tokens']:.0f} tokens on average"
    if found["full_prefill_ms"] is None:
        label += f" of {found['visual_tokens']}"
    times = f"{found['prefill_ms']:.1f} ms", f"{found['selection_ms']:.1f} ms"
    rows.append((label, *times, found["answer"]))
    shown = [(*row[:3], _one_line(row[3]) or "(no answer)") for row in rows]
    lines = [_one_line(found["question"]), "", *_table(shown, right=(1, 2))]
    if found["picture"]:
        lines += ["", f"kept tokens drawn in {found['picture']}"]
    return "\n".join(lines)


def _served_table(found: dict[str, Any]) -> str:
    rows = [("", "first token", "answer")]
    for label, part in (("all tokens", "full_"), ("pruned", "")):
        if found[f"{part}prefill_ms"] is not None:
            prompt = found[f"{part}prompt_tokens"]
            label += "" if prompt is None else f", a prompt of {prompt}"
            answer = _one_line(found[f"{part}answer"]) or "(no answer)"
            rows.append((label, f"{found[f'{part}prefill_ms']:.1f} ms", answer))
    return "\n".join([_one_line(found["question"]), "", *_table(rows, right=(1,))])


def _table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines with aligned columns, two spaces between them."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells: list[Callable[[int], str]] = [
            cell.rjust if i in right else cell.ljust for i, cell in enumerate(row)
        ]
        lines.append("  ".join(c(w) for c, w in zip(cells, widths, strict=True)).rstrip())
    return lines


# ---------------------------------------------------------------- listings


def _methods(args: argparse.Namespace) -> str:
    from sparevlm.methods import list_methods, method_class

    found = [_describe(method_class(name)) for name in list_methods(inside=None)]
    if args.json:
        return json.dumps(found)
    blocks = []
    for facts in found:
        settings = ", ".join(f"{name}={value!r}" for name, value in facts["settings"].items())
        rows = [
            ("  class", f"sparevlm.{facts['class']}"),
            ("  paper", facts["paper"] or "-"),
            ("  needs", ", ".join(facts["needs"]) or "nothing but the features"),
            ("  works", "inside the language model" if facts["inside"] else "before it"),
            ("  merges tokens", "yes" if facts["merges"] else "no"),
            ("  works with", "; ".join(facts["works_with"]) or "every supported model"),
            ("  settings", f"keep, {settings}"),
        ]
        blocks.append("\n".join([f"{facts['name']}: {facts['summary']}", *_table(rows)]))
    return "\n\n".join(blocks)


def _describe(cls: type[PruningMethod]) -> dict[str, Any]:
    """Facts of a method; every method has `keep` besides, which mostly has no default."""
    from sparevlm.methods.base import works_with

    return {
        "name": cls.name,
        "class": cls.__name__,
        "summary": _one_line((cls.__doc__ or "").split("\n\n")[0]),
        "paper": cls.paper,
        "needs": sorted(cls.needs),
        "merges": cls.merges,
        "inside": cls.inside,
        "works_with": works_with(cls),
        "settings": {
            field.name: field.default
            for field in fields(cls)
            if field.default is not MISSING and field.name != "keep"
        },
    }


def _models(args: argparse.Namespace) -> str:
    from sparevlm.hf import family_facts

    found = family_facts()
    if args.json:
        return json.dumps(found)
    rows = [
        (
            "family",
            "model_type",
            "images",
            "video",
            "text tower",
            "positions",
            "status",
            "tokens a picture",
            "class, checkpoints",
        )
    ]
    for facts in found:
        rows.append((
            facts["name"], facts["model_type"], _yes(facts["images"]), _yes(facts["video"]),
            facts["text_tower"] or "-", facts["positions"], facts["status"], facts["tokens"],
            ", ".join([facts["classes"][0], *facts["hub"]]),
        ))  # fmt: skip
    return "\n".join(_table(rows))


def _yes(value: bool) -> str:
    return "yes" if value else "no"


if __name__ == "__main__":
    sys.exit(main())
