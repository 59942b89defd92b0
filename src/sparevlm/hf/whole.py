"""The user's prompt, shown to what looks on while a pruned one is answered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from sparevlm.hf import stock


class WholePrompt:
    """A prompt as the user gave it, in place of the shorter one that `generate` goes on from.

    Parameters
    ----------
    ids : Tensor [B, L]
        The user's.
    length : int
        Columns of the shorter one.
    aside : callable
        Gives a context in which calls are ones of their own: what looks on may call the model.
    """

    def __init__(
        self, ids: Tensor, length: int, aside: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.ids, self._length, self.aside = ids, length, aside

    def of(self, sequences: Tensor) -> Tensor:
        """Sequences [B * n, L' + T] with the user's prompt: [B * n, L + T]; n rows a prompt."""
        answer = sequences[:, self._length :]
        prompts = self.ids.to(sequences.device)
        prompts = prompts.repeat_interleave(len(sequences) // len(prompts), 0)
        return torch.cat([prompts, answer], 1)

    def streamer(self, streamer: Any) -> Any:
        """A streamer that is given this prompt first."""
        return None if streamer is None else _Streamer(streamer, self)

    def shown(self, merged: list[Any], own: list[Any]) -> list[Any]:
        """Logits processors or stopping criteria of a call, of which `own` are the user's."""
        return type(merged)(self._shown(one, any(one is mine for mine in own)) for one in merged)

    def _shown(self, one: Any, own: bool) -> Any:
        if own and stock.is_length(one):
            return stock.with_length(one, self._length - self.ids.shape[1])
        if own or stock.reads_prompt(one):
            return _Shown(one, self)
        return stock.with_prompt(one, self.ids)


class _Shown:
    """A logits processor or stopping criterion that is given the user's prompt and the answer."""

    def __init__(self, inner: Any, prompt: WholePrompt) -> None:
        self._inner, self._prompt = inner, prompt
        self.__dict__["__call__"] = inner.__call__  # stock reads its signature

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        with self._prompt.aside():
            return self._inner(self._prompt.of(input_ids), scores, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("_inner", "_prompt"):  # not made yet, as in a copy
            raise AttributeError(name)
        return getattr(self._inner, name)


class _Streamer:
    def __init__(self, streamer: Any, prompt: WholePrompt) -> None:
        self._streamer, self._aside = streamer, prompt.aside
        self._ids: Tensor | None = prompt.ids

    def put(self, value: Tensor) -> None:
        if self._ids is not None:
            value, self._ids = self._ids.cpu(), None
        with self._aside():
            self._streamer.put(value)

    def end(self) -> None:
        with self._aside():
            self._streamer.end()
