"""Every way to inner products, whatever the shape would choose, with numba's loops and without."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest

from sparevlm.selection import pivoting
from sparevlm.selection.compiled import compiled

# On a CPU all run in one loop; the others are what an accelerator without Triton takes.
HOST = {"gram", "columns", "blocks"}
COMPILED = {"compiled, gram": "gram", "compiled, blocks": "blocks", "compiled, exact": "exact"}
DEVICE = {"device, gram": True, "device, columns": False}


def compile_loops(patch: pytest.MonkeyPatch, wanted: bool) -> None:
    if wanted and not compiled():
        pytest.skip("no numba")
    for name in ("coverage", "greedy_css", "max_min", "pivoting", "spread"):
        patch.setattr(import_module(f"sparevlm.selection.{name}"), "compiled", lambda: wanted)


# Scope "class" rather than "function" lets hypothesis run many examples under one of them.
@pytest.fixture(scope="class", params=[*sorted(HOST), *COMPILED, *DEVICE])
def source(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        compile_loops(patch, request.param in COMPILED)
        if request.param in DEVICE:
            patch.setattr(pivoting, "_on_host", lambda images: False)
            patch.setattr(pivoting, "_wants_gram", lambda images: DEVICE[request.param])
        else:
            way = COMPILED.get(request.param, request.param)
            patch.setattr(pivoting, "_way", lambda images, k: way)
        yield request.param


@pytest.fixture(scope="class", autouse=True)
def loops(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Tests that do not ask for `source` run with compiled loops and without, or say otherwise."""
    wanted = getattr(request, "param", None)
    with pytest.MonkeyPatch.context() as patch:
        if wanted is not None:
            compile_loops(patch, wanted == "compiled")
        yield wanted


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "source" not in metafunc.fixturenames and getattr(metafunc.module, "BOTH_LOOPS", True):
        metafunc.parametrize("loops", ["compiled", "plain"], indirect=True, scope="class")
