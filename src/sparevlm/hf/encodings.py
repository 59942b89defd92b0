"""One run of the vision encoder for several methods that are asked about the same tensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from sparevlm.hf.encode import Encoded
    from sparevlm.methods.base import PruningMethod


class Encodings:
    """Encodings of tensors that stay alive and unchanged, with the time that each took.

    Attributes
    ----------
    saved : float
        Seconds that encoding would have taken where it was remembered; whoever measures latency
        adds them.
    """

    def __init__(self) -> None:
        self.saved = 0.0
        self._known: dict[Any, tuple[Encoded, float]] = {}

    def get(self, key: Any, make: Callable[[], Encoded]) -> Encoded:
        """What was made for this key before, or is made now."""
        if key in self._known:
            encoded, seconds = self._known[key]
            self.saved += seconds
            return encoded
        began = time.perf_counter()
        encoded = make()
        self._known[key] = encoded, time.perf_counter() - began
        return encoded

    def forget(self) -> None:
        """Drop all encodings: the tensors may change or go now."""
        self._known.clear()


_ENCODINGS: ContextVar[Encodings | None] = ContextVar("sparevlm encodings", default=None)


@contextmanager
def remembering() -> Iterator[Encodings]:
    """Let methods share encodings: in this block each tensor is encoded once for each need."""
    token = _ENCODINGS.set(Encodings())
    encodings = _ENCODINGS.get()
    assert encodings is not None
    try:
        yield encodings
    finally:
        _ENCODINGS.reset(token)


def remembered(
    kwargs: dict[str, Any], method: PruningMethod, rest: Any, make: Callable[[], Encoded]
) -> Encoded:
    """An encoding for a method: made now, unless one with the same needs is remembered."""
    encodings = _ENCODINGS.get()
    if encodings is None:
        return make()
    tensors = [(n, v.data_ptr(), v.shape) for n, v in kwargs.items() if isinstance(v, Tensor)]
    needs = sorted(method.requires), repr(method.attention_of), method.keys_of, method.per
    return encodings.get(repr((sorted(tensors), needs, rest)), make)
