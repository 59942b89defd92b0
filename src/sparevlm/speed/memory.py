"""Bytes alive at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Largest number of bytes alive at once in tensors made under it, seen between operations."""

    def __init__(self, *inputs: Tensor) -> None:
        super().__init__()
        self.peak = 0
        self._inputs = {tensor.untyped_storage()._cdata for tensor in inputs}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for key in [key for key, (ref, _) in self._alive.items() if ref.expired()]:
            del self._alive[key]
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._inputs:
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result


@contextmanager
def peak_bytes(device: torch.device, *inputs: Tensor) -> Iterator[list[int]]:
    """Peak of what is made inside, without `inputs`; the list has it after the block.

    On a GPU the allocator's own peak; else what tensors hold, without what libraries allocate.
    """
    peaks: list[int] = []
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peaks
        torch.cuda.synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    else:
        with LiveBytes(*inputs) as live:
            yield peaks
        peaks.append(live.peak)
