"""Pictures of one call that are chosen from together: each as by itself, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from sparevlm.budgets import Residual
from sparevlm.methods import SPARE, DivPrune, list_methods, method_class
from sparevlm.methods.base import _REGISTRY
from sparevlm.tokens import Query, Reduction, VisualTokens
from tests.methods.scene import first_layer

NAMES = [name for name in list_methods() if name not in ("downsample", "zoo-prune")]


def picture(seed: int, n: int = 60, *, ends: bool = False, asked: bool = True) -> VisualTokens:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, 16, generator=draw) * torch.rand(n, 1, generator=draw)
    candidates = None
    if ends:
        candidates = torch.arange(n) % 10 != 9
    query = Query(torch.randn(n, 8, generator=draw), torch.randn(3, 8, generator=draw), "llm")
    return VisualTokens(
        rows, candidates=candidates, query=query if asked else None,
        encoder_attention=torch.rand(2, n, generator=draw),
        encoder_keys=torch.randn(n, 2, 8, generator=draw), first_layer=first_layer(),
    )  # fmt: skip


PICTURES = [
    picture(0), picture(1, ends=True), picture(2, 48), picture(3), picture(4, asked=False),
    picture(5, ends=True), picture(6), picture(7, 83), picture(8, 97), picture(9, 61, ends=True),
]  # fmt: skip


def same(one: Reduction, other: Reduction) -> None:
    for name in ("indices", "features", "order", "scores", "residual", "weights"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None), name
        if name == "residual" and a is not None:  # of float64 sums, as float32
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)
        else:
            assert a is None or torch.equal(a, b), name


@pytest.mark.parametrize("keep", [7, 0.25, 60])
@pytest.mark.parametrize("name", NAMES)
def test_each_is_as_by_itself(name, keep):
    method = method_class(name)(keep)
    pictures = [seen for seen in PICTURES if seen.query is not None or name != "trim"]
    if name == "hiprune":  # of three kinds of layers
        pictures = [replace(p, encoder_attention=(p.encoder_attention,) * 3) for p in pictures]
    together = method.reduce_together(pictures)
    for seen, reduction in zip(pictures, together, strict=True):
        same(reduction, method.reduce(seen))


def test_a_budget_by_error():
    method = SPARE(Residual(0.2))
    for seen, reduction in zip(PICTURES, method.reduce_together(PICTURES), strict=True):
        same(reduction, method.reduce(seen))


def test_what_a_class_further_down_says_counts():
    """Methods of somebody else that say anew how one picture is picked from, or reduced."""

    @dataclass(frozen=True)
    class Last(SPARE):
        name: ClassVar[str] = "last-of-the-tests"

        def pick(self, tokens: VisualTokens, k: int) -> Reduction:
            return Reduction.picked(torch.arange(len(tokens) - k, len(tokens)))

    @dataclass(frozen=True)
    class First(DivPrune):
        name: ClassVar[str] = "first-of-the-tests"

        def reduce(self, tokens: VisualTokens) -> Reduction:
            return Reduction(torch.arange(self.budget(tokens)))

    try:
        for cls, expected in ((Last, [57, 58, 59]), (First, [0, 1, 2])):
            reductions = cls(3).reduce_together([PICTURES[0], PICTURES[3]])
            assert [one.indices.tolist() for one in reductions] == [expected, expected]
    finally:
        for cls in (Last, First):
            _REGISTRY.pop(cls.name, None)
