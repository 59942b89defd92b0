"""What a selection launches, counted and not timed: the guard against slow selections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sparevlm.methods import get_method
from sparevlm.selection import (
    cosine_distances,
    greedy,
    max_coverage,
    max_min,
    pivoting,
    products,
    select,
)
from sparevlm.tokens import Query, VisualTokens
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


def during(call: Callable[[], object]) -> Operations:
    with Operations() as seen:
        call()
    return seen


def operations(features: torch.Tensor, k: int, **given: Any) -> Operations:
    return during(lambda: select(features, k, **given))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Selections take the kernels, and note what they launch."""
    from sparevlm.kernels import gram
    from sparevlm.kernels import greedy as loops
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
    noting(loops, "_greedy")
    monkeypatch.setattr(greedy, "usable", lambda _: True)
    monkeypatch.setattr(products, "usable", lambda _: True)
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


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("k", [1, 4, 40])
def test_one_launch_for_max_min(fused, images, k) -> None:
    distances = torch.stack([cosine_distances(x.float()) for x in gaussian(images, 40, 24)])
    first = uniform(images, 40).float()
    seen = during(lambda: max_min(distances, k, first))
    assert fused == ["_greedy"]
    assert seen.all <= 2 and seen.waits == 0


@pytest.mark.parametrize("k", [1, 4, 40])
def test_one_launch_for_coverage(fused, k) -> None:
    alike = 1 - cosine_distances(gaussian(40, 24, dtype=torch.float32))
    seen = during(lambda: max_coverage(alike, k))
    assert fused == ["_greedy"]
    assert seen.all <= 12 and seen.waits == 0


@pytest.mark.parametrize(
    ("name", "kernels", "small", "waits"),
    [
        ("cdpruner", ["_row_sizes", "_gram", "_pivot"], 62, 3),  # weights by the question
        ("divprune", ["_greedy"], 23, 1),
        ("k-center", ["_greedy"], 21, 2),
        ("mmtok", ["_greedy"], 61, 4),  # features, states, patches and texts are looked at
        ("scope", ["_greedy"], 33, 2),
    ],
)
def test_launches_of_a_method(fused, name, kernels, small, waits) -> None:
    x, texts = (gaussian(n, 48, seed=n, dtype=torch.float32) for n in (40, 3))  # of full rank
    tokens = VisualTokens(
        x, query=Query(x, texts), encoder_attention=uniform(4, 40, seed=1).float()
    )
    for k in (4, 39):
        fused.clear()
        seen = during(lambda k=k: get_method(name, keep=k).reduce(tokens))
        assert fused == kernels
        assert seen.all <= small
        assert seen.waits == waits


def test_what_rounding_blurs_takes_more_launches(fused) -> None:
    x = gaussian(40, 24, dtype=torch.float32)
    seen = operations(x, 30)
    assert fused == 2 * ["_row_sizes", "_gram", "_pivot"]
    assert seen.waits <= 12


@pytest.mark.parametrize(("n", "d"), [(200, 64), (900, 600)])
def test_operations_of_a_step_on_a_cpu(n, d) -> None:
    """Few, and as many for any size."""
    x = gaussian(n, d, dtype=torch.float32)
    few, many = operations(x, 16), operations(x, 48)
    assert (many.all - few.all) / 32 <= 24
    assert (many.waits - few.waits) / 32 <= 2
