"""Loops that numba compiles, where it is there and works."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib.util import find_spec

import pytest
import torch

from sparevlm.selection import compiled as module
from sparevlm.selection import pivoting, select, select_each

from .data import gaussian

BOTH_LOOPS = False
needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="no numba")


@pytest.fixture
def asked_anew():
    module._works.cache_clear()
    yield
    module._works.cache_clear()


def test_without_numba(asked_anew, monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert not module.compiled()


def test_a_numba_that_does_not_work_is_said_once(asked_anew, monkeypatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("Numba needs NumPy 2.4 or less.\nGot NumPy 2.9.")

    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "import_module", broken)
    with pytest.warns(RuntimeWarning) as said:
        assert not module.compiled()
        assert not module.compiled()
    assert len(said) == 1
    text = str(said[0].message)
    assert text.startswith("numba cannot be used (Numba needs NumPy 2.4 or less. Got NumPy 2.9.)")
    assert "pip install -U 'sparevlm[fast]'" in text


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1500:]
    return done.stdout.strip()


@needs_numba
def test_where_nothing_may_be_compiled() -> None:
    code = "from sparevlm.selection.compiled import compiled; print(compiled())"
    assert run(code, NUMBA_DISABLE_JIT="1") == "False"


@needs_numba
def test_where_nothing_can_be_kept() -> None:
    """As in a container whose folders are read-only: numba refuses to keep what it compiles."""
    code = (
        "import warnings, torch, numba.core.caching as caching\n"
        "warnings.simplefilter('error')\n"
        "caching.CacheImpl._locator_classes.clear()\n"
        "from sparevlm.selection import select\n"
        "from sparevlm.selection.compiled import compiled\n"
        "print(compiled(), select(torch.eye(3)[[0, 0, 1]], 2).order.tolist())"
    )
    assert run(code) == "True [0, 2]"


@needs_numba
def test_torch_compile_sees_loops_that_it_can_follow() -> None:
    seen = []

    def look(x: torch.Tensor) -> torch.Tensor:
        seen.append(module.compiled())
        return x + 1

    torch.compile(look, backend="eager")(torch.ones(2))
    assert seen[0] is False and module.compiled() is True


@needs_numba
def test_small_pictures_are_worked_on_in_float64() -> None:
    """Nearly all of the energy in few directions: float32 would be blurred after some steps."""
    x = gaussian(196, 256, seed=1, dtype=torch.float32)
    x *= torch.arange(1, 257).float() ** -2
    assert pivoting._way(x[None], 98) == "exact"
    wanted = select(x.double(), 98)
    for k in (12, 65, 98):
        found = select(x, k)
        assert found.residual.dtype == torch.float32
        assert torch.equal(found.order, wanted.order[:k])
        assert torch.allclose(found.residual.double(), wanted.residual[: k + 1], rtol=1e-5)


def odd(which: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A picture that needs more than a loop, and its weights."""
    x, w = gaussian(60, 24, seed=5, dtype=torch.float32), torch.linspace(0.5, 1, 60)
    if which == "low rank":
        x = x[:, :3] @ x[:3]
    elif which == "zero row":
        x[7] = 0
    elif which == "zero weight":
        w[7] = 0
    elif which == "tiny row":
        x[7] *= 2.0**-40
    elif which == "far from 1":
        x *= 2.0**50
    return x, w


ODD = ["low rank", "zero row", "zero weight", "tiny row", "far from 1"]


@needs_numba
@pytest.mark.parametrize("which", [*ODD, "usual", "no weights", "bf16", "fp64", "strided"])
def test_a_usual_picture_takes_the_short_road_to_the_same(which, monkeypatch) -> None:
    x, w = odd(which)
    if which == "no weights":
        w = None
    elif which in ("bf16", "fp64"):
        x = x.to(torch.bfloat16 if which == "bf16" else torch.float64)
    elif which == "strided":
        x, w = torch.stack([x, x], 2)[..., 0], torch.stack([w, w], 1)[:, 0]
    assert pivoting._way(x[None], 12) == "exact"
    (found,) = select_each([x], [12], [w])
    assert (pivoting._usual(x, w, 12) is None) == (which in ODD)
    monkeypatch.setattr(pivoting, "_usual", lambda *_: None)
    (wanted,) = select_each([x], [12], [w])
    for name in ("order", "residual", "count"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert torch.equal(one, other) and one.dtype == other.dtype


@needs_numba
@pytest.mark.parametrize("bad", [-1.0, torch.nan, torch.inf])
def test_bad_values_are_named_on_the_short_road_too(bad) -> None:
    x, w = odd("usual")
    w[3] = bad
    with pytest.raises(ValueError, match="weights must be finite and not negative"):
        select_each([x], [5], [w])
    x[9, 2] = torch.nan if bad < 0 else bad
    with pytest.raises(ValueError, match="image 1, row 9"):
        select_each([x[:5], x], [5, 5])


@needs_numba
@pytest.mark.parametrize("way", ["gram", "blocks", "exact"])
@pytest.mark.parametrize("tol", [0.0, 0.3])
def test_nothing_is_read_that_was_not_written(way, tol, monkeypatch) -> None:
    """Of images that need unlike many tokens, whatever the memory held before."""

    def made(dtype, *shape, zero=False):
        held = 0 if zero else torch.finfo(dtype).max
        return torch.full(shape, held, dtype=dtype).numpy()

    x = torch.stack([gaussian(60, d, seed=d, dtype=torch.float32)[:, :9] for d in (9, 12, 40)])
    x[0] *= torch.arange(1, 10) ** -2.0
    x[1, :, 2:] = 0
    monkeypatch.setattr(pivoting, "_way", lambda *_: way)
    wanted = select(x, 30, tol=tol)
    monkeypatch.setattr("sparevlm.selection.host.made", made)
    with warnings.catch_warnings(action="error"):
        found = select(x, 30, tol=tol)
    assert torch.equal(found.order, wanted.order) and torch.equal(found.residual, wanted.residual)


@needs_numba
@pytest.mark.parametrize("way", ["gram", "blocks", "exact"])
def test_a_long_picture_of_which_many_are_kept(way, monkeypatch) -> None:
    x = gaussian(2500, 300, seed=3, dtype=torch.float64)
    monkeypatch.setattr(pivoting, "_way", lambda *_: way)
    found = select(x, 250)
    monkeypatch.setattr(pivoting, "compiled", lambda: False)
    monkeypatch.setattr(pivoting, "_way", lambda *_: "columns")
    assert torch.equal(found.order, select(x, 250).order)
