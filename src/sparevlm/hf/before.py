"""Pruning attached to a model, before its decoder: hooks that come off again without a trace."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparevlm.families import Family
from sparevlm.hf import stock
from sparevlm.hf.attached import Attached
from sparevlm.hf.expand import group_expansion
from sparevlm.hf.media import MODALITIES
from sparevlm.hf.passed import check_generate
from sparevlm.hf.prune import Shrunk, shrink
from sparevlm.hf.pruning import Pruning
from sparevlm.hf.reading import generation_setting, uses_cache
from sparevlm.hf.turns import Memory, recall, remember
from sparevlm.hf.whole import WholePrompt
from sparevlm.report import Report

_NOTHING = None, None, 0


class Handle(Attached):
    """Pruning attached to a model, before its decoder."""

    def __init__(self, pruning: Pruning, *, part: bool = False) -> None:
        model = pruning.model
        super().__init__(pruning.method, model, part=part)
        self._pruning = pruning
        self._reports = [self._own]  # by thread, of this and what works behind it
        self._local = threading.local()  # so that threads do not see each other's calls
        self._names = list(inspect.signature(model.forward).parameters)
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True, prepend=True),
            model.register_forward_hook(self._after),
        ]
        self._had_generate = model.__dict__.get("generate")
        self._wrapper: Any = None
        self._grouped = group_expansion(model, pruning.family)
        if hasattr(model, "generate"):
            self._stock_generate = model.generate
            model.generate = self._wrapper = self._wrapped_generate()
            stock.set_merging(model, self._shown)

    def _take_off(self) -> None:
        super()._take_off()
        if self._grouped:
            stock.reset_expansion(self._model)
        if self._wrapper is not None:
            stock.reset_merging(self._model)
        # A wrapper that the user put around ours stays; ours passes calls on once detached.
        if self._wrapper is not None and self._model.__dict__.get("generate") is self._wrapper:
            del self._model.generate
            if self._had_generate is not None:
                self._model.generate = self._had_generate

    def _shrink(self, kwargs: dict[str, Any], **options: Any) -> Shrunk:
        shrunk = shrink(self._pruning, kwargs, **options)
        report = Report(shrunk.report)
        self._local.last = report, len(kwargs["input_ids"]) if report else 1
        ids = kwargs.get("input_ids")
        self._local.seen = (*_seen(shrunk, ids), 0 if ids is None else ids.shape[1])
        if report:
            self.report = report
        return shrunk

    def watch(self, reports: threading.local) -> None:
        """Keep the reports of what works behind this, too, while calls are made aside."""
        self._reports.append(reports)

    @property
    def family(self) -> Family:
        """Facts about the model."""
        return self._pruning.family

    @property
    def last(self) -> tuple[Report, int]:
        """Reports of the present thread's last call, had it pictures or not, and its prompts."""
        return getattr(self._local, "last", (Report(), 1))

    @property
    def columns(self) -> Tensor | None:
        """See `Attached`."""
        return getattr(self._local, "seen", _NOTHING)[0]

    @property
    def attention_mask(self) -> Tensor | None:
        """See `Attached`."""
        return getattr(self._local, "seen", _NOTHING)[1]

    @property
    def prompt_length(self) -> int:
        """See `Attached`."""
        return getattr(self._local, "seen", _NOTHING)[2]

    # -- forward

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if getattr(self._local, "generating", False):
            return None
        self._local.memory = None
        named = dict(zip(self._names, args, strict=False)) | kwargs
        shrunk = self._shrink(named, side=None)
        self._local.memory = shrunk.memory
        return (), shrunk.kwargs

    def _after(self, module: Any, args: tuple[Any, ...], output: Any) -> None:
        memory = getattr(self._local, "memory", None)
        if memory is not None and not getattr(self._local, "generating", False):
            self._local.memory = None
            remember(stock.output_cache(output), memory)

    # -- generate

    def _wrapped_generate(self) -> Callable[..., Any]:
        @functools.wraps(self._stock_generate)
        def generate(*args: Any, **kwargs: Any) -> Any:
            return self._generate(*args, **kwargs)

        return generate

    @torch.no_grad()
    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        if getattr(self._local, "generating", False) or not self._attached:
            return self._stock_generate(*args, **kwargs)
        names = stock.parameters_of(self._stock_generate)
        named = dict(zip(names, args, strict=False)) | kwargs
        if named.get("inputs") is not None and "input_ids" not in named:
            named["input_ids"] = named.pop("inputs")
        ids: Tensor | None = named.get("input_ids")
        if ids is None:
            return self._inside(self._shrink(named, side="left", whole=True).kwargs)
        arguments = {name: value for name, value in named.items() if value is not None}
        pictures = any(modality.pixels in arguments for modality in MODALITIES)
        if (pictures and self._pruning.drops) or recall(stock.cache_of(arguments)) is not None:
            check_generate(self._model, arguments)
        guessed = {} if "attention_mask" in arguments else self._padding_mask(ids, arguments)
        shrunk = self._shrink(arguments | guessed, side="left", whole=True)
        if shrunk.memory is None:
            whole = {k: v for k, v in shrunk.kwargs.items() if k not in guessed}
            return self._seen_by(WholePrompt(ids, ids.shape[1], self._aside), whole)
        return self._pruned(shrunk, shrunk.memory, ids)

    def _seen_by(self, prompt: WholePrompt, kwargs: dict[str, Any]) -> Any:
        """Generate, and let what looks on see the user's prompt."""
        streamer = prompt.streamer(kwargs.get("streamer"))
        self._local.prompt = prompt
        try:
            return self._inside(kwargs if streamer is None else kwargs | {"streamer": streamer})
        finally:
            self._local.prompt = None

    def _inside(self, kwargs: dict[str, Any]) -> Any:
        self._local.generating = True
        try:
            return self._stock_generate(**kwargs)
        finally:
            self._local.generating = False

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """In it calls of the model are the user's own; afterwards all is as before."""
        held = [(state, dict(vars(state))) for state in (self._local, *self._reports)]
        self._local.generating, self._local.prompt = False, None
        try:
            yield
        finally:
            for state, values in held:
                vars(state).clear()
                vars(state).update(values)

    def _shown(self, merged: list[Any], own: list[Any]) -> list[Any]:
        prompt: WholePrompt | None = getattr(self._local, "prompt", None)
        return merged if prompt is None else prompt.shown(merged, own)

    def _padding_mask(self, ids: Tensor, arguments: dict[str, Any]) -> dict[str, Tensor]:
        """The mask that `generate` would guess from padding ids, while they can still be seen."""
        pad = generation_setting(self._model, arguments, "pad_token_id")
        eos = generation_setting(self._model, arguments, "eos_token_id")
        ends = eos if isinstance(eos, list | tuple) else [eos]
        if pad is None or pad in ends or not bool((ids == pad).any()):
            return {}
        return {"attention_mask": (ids != pad).long()}

    def _pruned(self, shrunk: Shrunk, memory: Memory, ids: Tensor) -> Any:
        kwargs = shrunk.kwargs
        if memory.original and not uses_cache(self._model, kwargs):
            raise ValueError(
                "original positions need the cache: remove use_cache=False or use "
                'positions="compact"'
            )
        if generation_setting(self._model, kwargs, "prefill_chunk_size"):
            raise ValueError(
                "a pruned prompt cannot be prefilled in chunks: remove prefill_chunk_size"
            )
        self._shift_lengths(kwargs, ids.shape[1])
        prompt = WholePrompt(ids, kwargs["input_ids"].shape[1], self._aside)
        out = self._seen_by(prompt, kwargs)
        sequences = prompt.of(out if isinstance(out, Tensor) else out.sequences)
        cache = stock.cache_of(kwargs)
        if not isinstance(out, Tensor):
            out.sequences = sequences
            cache = stock.output_cache(out) or cache
        if stock.cached_tokens(cache):
            remember(cache, memory)
        return sequences if isinstance(out, Tensor) else out

    def _shift_lengths(self, kwargs: dict[str, Any], whole: int) -> None:
        """Lengths count the prompt, which was `whole` tokens and is shorter now."""
        cut = whole - kwargs["input_ids"].shape[1]
        changed = {}
        longest = generation_setting(self._model, kwargs, "max_new_tokens")
        for name in ("max_length", "min_length"):
            length = generation_setting(self._model, kwargs, name)
            told = kwargs if kwargs.get(name) is not None else {}
            if name == "max_length" and "generation_config" in kwargs and longest is None:
                told = vars(kwargs["generation_config"])
            if name == "max_length" and told.get(name) is not None and length <= whole:
                raise ValueError(
                    f"max_length={length} leaves no room after a prompt of {whole} tokens: "
                    "raise it, or give max_new_tokens"
                )
            if kwargs.get(name) is not None:
                kwargs[name] = length - cut
            elif length:
                changed[name] = length - cut
        if longest is not None:
            changed.pop("max_length", None)
        if not changed:
            return
        if "generation_config" in kwargs:
            kwargs["generation_config"] = copy.deepcopy(kwargs["generation_config"])
            kwargs["generation_config"].update(**changed)
        else:
            kwargs.update(changed)


def _seen(shrunk: Shrunk, ids: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Columns and mask [B, L'] of what a call puts out."""
    if ids is None:
        return None, None
    columns = shrunk.columns
    if columns is None:
        columns = torch.arange(shrunk.start, ids.shape[1]).expand(len(ids), -1)
    mask = shrunk.kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        mask = torch.ones_like(columns)
    return columns, mask[:, mask.shape[1] - columns.shape[1] :]
