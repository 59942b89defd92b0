"""Timing a model with all and with fewer visual tokens, in turn."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from sparevlm.hf import stock
from sparevlm.hf.encode import capture_and_unread
from sparevlm.hf.media import placeholder_ids
from sparevlm.hf.supported import find_family
from sparevlm.hf.unread import passed_over
from sparevlm.methods import UniformGrid
from sparevlm.methods.base import PruningMethod
from sparevlm.methods.in_decoder import DecoderMethod
from sparevlm.speed.memory import peak_bytes
from sparevlm.speed.models import Subject
from sparevlm.warning import warn

STAGES = ("encoder", "selection", "prefill", "first_token", "decode")


@dataclass(frozen=True)
class Spread:
    """Of repeated runs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Median, least and largest."""
        return cls(float(np.median(values)), min(values), max(values))


@dataclass(frozen=True)
class Measured:
    """One method at one budget (or all tokens) in one call.

    Attributes
    ----------
    method : str
        "all tokens" for the model as it is.
    keep : float
        The share asked for; 1 for all tokens.
    batch, words : int
        Rows, and words of text in each.
    before, after : int
        Visual tokens a row, given by the encoder and to the language model (on average over its
        layers).
    milliseconds : dict of Spread
        encoder (in pruned calls without the layers that no one reads); selection (all that pruning
        adds to the encoder; for methods inside the language model what choosing takes, which is a
        part of prefill too); prefill (the language model on the prompt, features given);
        first_token (pixels to the first new token, nothing left out); decode (a further token).
    speedup : Spread
        Time to the first token of all tokens over this one's, run by run.
    ideal : float
        What `speedup` would be if pruning cost nothing: (encoder + prefill of all) over
        (encoder + prefill of the kept), medians.
    kv_bytes, peak_bytes : int
        Of keys and values after the prompt, and of all that a call allocates up to its first token.
    flops : float
        Of matrix products and attention up to the first token, selection included.
    """

    method: str
    keep: float
    batch: int
    words: int
    before: int
    after: int
    milliseconds: dict[str, Spread]
    speedup: Spread
    ideal: float
    kv_bytes: int
    peak_bytes: int
    flops: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def measure(
    subject: Subject,
    methods: list[PruningMethod],
    *,
    batch: int,
    words: int,
    repeats: int = 7,
    new_tokens: int = 8,
    progress: Callable[[], object] = lambda: None,
) -> list[Measured]:
    """Time all tokens and every method, one after the other in each repeat.

    Parameters
    ----------
    subject : Subject
    methods : list of PruningMethod
        With their budgets, which must be shares.
    batch, words : int
        Rows of the call, and words of text in each.
    repeats : int
        After one warm-up.
    new_tokens : int
        Generated for the time of decoding; at least 2.
    progress : callable
        Called after every timed run.

    Returns
    -------
    list of Measured
        All tokens first.
    """
    inputs = subject.inputs(batch, words)
    ways: list[PruningMethod | None] = [None, *_possible(subject, methods, inputs)]
    samples: list[dict[str, list[float]]] = [{stage: [] for stage in STAGES} for _ in ways]
    facts = [_facts(subject, way, inputs) for way in ways]  # warms up too
    for way in ways:
        _run(subject, way, inputs, new_tokens)
    for repeat in range(repeats):
        for i in _rotated(len(ways), repeat):  # none is always first or last
            for stage, value in _run(subject, ways[i], inputs, new_tokens).items():
                samples[i][stage].append(value)
            progress()
    return list(_summaries(ways, facts, samples, batch, words))


def _possible(
    subject: Subject, methods: list[PruningMethod], inputs: dict[str, Tensor]
) -> Iterator[PruningMethod]:
    """Methods whose budget this model can have; of the others a warning says why not."""
    layers = subject.model.config.get_text_config().num_hidden_layers
    tokens, _ = _visual_tokens(subject, None, inputs)
    for method in methods:
        try:
            if isinstance(method, DecoderMethod):
                method.schedule(layers, tokens)
        except ValueError as error:
            warn(f"left out: {error}")
            continue
        yield method


def _rotated(n: int, by: int) -> list[int]:
    return [(i + by) % n for i in range(n)]


def _summaries(
    ways: list[PruningMethod | None],
    facts: list[dict[str, Any]],
    samples: list[dict[str, list[float]]],
    batch: int,
    words: int,
) -> Iterator[Measured]:
    spreads = [{stage: Spread.of(values) for stage, values in s.items()} for s in samples]
    full = spreads[0]
    for way, fact, sample, spread in zip(ways, facts, samples, spreads, strict=True):
        pairs = zip(samples[0]["first_token"], sample["first_token"], strict=True)
        yield Measured(
            method="all tokens" if way is None else way.name,
            keep=1.0 if way is None else float(way.keep),  # type: ignore[arg-type]
            batch=batch,
            words=words,
            milliseconds=spread,
            speedup=Spread.of([whole / part for whole, part in pairs]),
            ideal=_without_selection(full) / _without_selection(spread),
            **fact,
        )


def _without_selection(spread: dict[str, Spread]) -> float:
    return spread["encoder"].median + spread["prefill"].median


@torch.no_grad()
def _run(
    subject: Subject, way: PruningMethod | None, inputs: dict[str, Tensor], new_tokens: int
) -> dict[str, float]:
    """Milliseconds of one call, and of its parts run by themselves."""
    model = subject.model
    with _passing_over(model, way, inputs):
        encoder = _timed(model, lambda: _encode(model, inputs))
    pruned: list[dict[str, Any]] = []
    before = None if way is None or way.inside else way
    prune = _timed(model, lambda: pruned.append(_shorter(subject, before, inputs)))
    selection = 0.0 if before is None else max(0.0, prune - encoder)
    inside = way if way is not None and way.inside else None
    with _pruning(subject, inside) as handle:
        prefill = _timed(model, lambda: model(**pruned[0], use_cache=True, logits_to_keep=1))
        if handle is not None:
            selection = sum(picture.milliseconds for picture in handle.report)
    streamer = _Clock(model)
    with _pruning(subject, way):
        start = streamer.now()
        _generate(model, inputs, new_tokens, streamer)
    first, last = streamer.times[0], streamer.times[-1]
    return {
        "encoder": encoder,
        "selection": selection,
        "prefill": prefill,
        "first_token": (first - start) * 1e3,
        "decode": (last - first) * 1e3 / (new_tokens - 1),
    }


def _facts(
    subject: Subject, way: PruningMethod | None, inputs: dict[str, Tensor]
) -> dict[str, Any]:
    """What does not depend on the clock."""
    model = subject.model
    weights = [*model.parameters(), *model.buffers()]
    known = [*weights, *inputs.values()]
    with _pruning(subject, way) as handle:
        with torch.no_grad(), peak_bytes(model.device, *known) as peak:
            out = model(**inputs, use_cache=True, logits_to_keep=1)
        kv = stock.cache_bytes(stock.output_cache(out))
        del out
        with torch.no_grad(), FlopCounterMode(display=False) as counted:
            model(**inputs, use_cache=True, logits_to_keep=1)
        before, after = _visual_tokens(subject, handle, inputs)
    return {
        "before": before, "after": after, "kv_bytes": kv, "peak_bytes": peak[0],
        "flops": float(counted.get_total_flops()),
    }  # fmt: skip


def _visual_tokens(subject: Subject, handle: Any, inputs: dict[str, Tensor]) -> tuple[int, int]:
    rows = len(inputs["input_ids"])
    if handle is None:
        mark = placeholder_ids(find_family(subject.model), subject.model)[0]
        tokens = int((inputs["input_ids"] == mark).sum()) // rows
        return tokens, tokens
    report = handle.report
    return sum(r.before for r in report) // rows, round(sum(r.tokens for r in report) / rows)


@contextmanager
def _pruning(subject: Subject, way: PruningMethod | None) -> Iterator[Any]:
    """The model with a method attached, or as it is."""
    handle = None if way is None else way.attach(subject.model, **subject.options)
    try:
        yield handle
    finally:
        if handle is not None:
            handle.detach()


def _passing_over(model: Any, way: PruningMethod | None, inputs: dict[str, Any]) -> Any:
    """In it the encoder runs as in a call that is pruned so: without layers that no one reads."""
    if way is None:
        return nullcontext()
    _, unread = capture_and_unread(way, model, find_family(model), inputs)
    return passed_over(unread)


def _encode(model: Any, inputs: dict[str, Tensor]) -> Any:
    encoder = stock.encoder_of(model.base_model, "image")
    known = inspect.signature(encoder).parameters
    arguments = {name: value for name, value in inputs.items() if name in known}
    return encoder(**arguments, return_dict=True)


def _shorter(
    subject: Subject, way: PruningMethod | None, inputs: dict[str, Tensor]
) -> dict[str, Any]:
    """The call's inputs with features for pictures: pruned, or all of them."""
    if way is None:
        return UniformGrid(keep=1.0).prune_inputs(subject.model, inputs)
    return way.prune_inputs(subject.model, inputs, **subject.options)


def _generate(model: Any, inputs: dict[str, Tensor], new_tokens: int, streamer: Any) -> None:
    model.generate(
        **inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False,
        streamer=streamer,
    )  # fmt: skip


def _timed(model: Any, call: Callable[[], object]) -> float:
    clock = _Clock(model)
    start = clock.now()
    call()
    return (clock.now() - start) * 1e3


class _Clock:
    """Seconds when the device is done; as a streamer, of every new token."""

    def __init__(self, model: Any) -> None:
        self._device = model.device
        self._calls = 0
        self.times: list[float] = []

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def put(self, value: Any) -> None:
        """Take a token; the prompt comes first, and `generate` has waited for each."""
        self._calls += 1
        if self._calls > 1:
            self.times.append(time.perf_counter())

    def end(self) -> None:
        pass
