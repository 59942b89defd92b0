"""What a selection launches, counted and not timed: the guard against slow selections."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sparevlm.selection import pivoting, select
from tests.selection.data import gaussian, uniform

WAITS = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item")


class Operations(TorchDispatchMode):
    """Counts operations by name; views cost a launch nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.of[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def all(self) -> int:
        return self.of.total()

    @property
    def waits(self) -> int:
        """How often the host asked for a value of the device."""
        return sum(self.of[name] for name in WAITS)


def operations(features: torch.Tensor, k: int, **given: Any) -> Operations:
    with Operations() as seen:
        select(features, k, **given)
    return seen


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """`select` takes the kernels, and notes what it launches."""
    from sparevlm.kernels import gram
    from sparevlm.kernels import pivoting as kernel

    launched: list[str] = []

    def noting(module: Any, name: str) -> None:
        made = getattr(module, name)

        class Noted:
            def __getitem__(self, grid: tuple[int, ...]) -> Any:
                launched.append(name)

                def launch(*arguments: Any, **named: Any) -> None:
                    with _disable_current_modes():  # the interpreter's own operations
                        made[grid](*arguments, **named)

                return launch

        monkeypatch.setattr(module, name, Noted())

    noting(gram, "_row_sizes")
    noting(gram, "_gram")
    noting(kernel, "_pivot")
    monkeypatch.setattr(pivoting, "usable", lambda _: True)
    monkeypatch.setattr(pivoting, "_wants_gram", lambda *_: True)
    monkeypatch.setattr(pivoting, "_chunks", lambda images, _: [(0, len(images))])  # as on a GPU
    return launched


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("images", "k"), [(1, 4), (1, 16), (3, 8)])
def test_three_launches_for_any_batch_and_k(fused, images, k, weighted) -> None:
    x = gaussian(images, 40, 24, dtype=torch.float32)
    w = uniform(images, 40) if weighted else None
    seen = operations(x, k, weights=w)
    assert fused == ["_row_sizes", "_gram", "_pivot"]
    assert seen.all <= (32 if weighted else 22)
    # NaN in the features, and wrong weights, can be known in no other way.
    assert seen.waits == 1 + weighted


def test_operations_do_not_grow(fused) -> None:
    x = gaussian(1, 40, 24, dtype=torch.float32)
    assert operations(x, 4).all == operations(x, 24).all
    assert operations(x, 4).all == operations(x.repeat(3, 1, 1), 4).all


@pytest.mark.parametrize(("n", "d"), [(200, 64), (900, 600)])
def test_operations_of_a_step_on_a_cpu(n, d) -> None:
    """Few, and as many for any size."""
    x = gaussian(n, d, dtype=torch.float32)
    few, many = operations(x, 16), operations(x, 48)
    assert (many.all - few.all) / 32 <= 24
    assert (many.waits - few.waits) / 32 <= 2
