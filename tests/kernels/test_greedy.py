"""Max-min and coverage in one launch pick what the torch path picks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from sparevlm.methods import MMTok, get_method
from sparevlm.selection import cosine_distances, greedy, max_coverage, max_min
from sparevlm.tokens import Query, VisualTokens
from tests.selection.data import gaussian, uniform

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Not powers of two; one token; all of them kept.
SHAPES = [(1, 1), (2, 2), (37, 1), (37, 37), (64, 20), (100, 33), (196, 12)]


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Any]], tuple]]:
    """Calls something with the kernel, and on a CPU without it."""
    from sparevlm.kernels import greedy as kernel

    launches: list[tuple] = []
    run = kernel._run

    def counted(*given: Any, **named: Any) -> Tensor:
        launches.append(given)
        return run(*given, **named)

    monkeypatch.setattr(kernel, "_run", counted)

    def call(what: Callable[[str], Any]) -> tuple[Any, Any]:
        exact = what("cpu")
        before = len(launches)
        with monkeypatch.context() as patched:
            patched.setattr(greedy, "usable", lambda _: True)
            found = what(DEVICE)
        assert len(launches) == before + 1, "the kernel was not used once"
        return found, exact

    yield call


def rows(n: int, seed: int = 0, d: int = 24) -> Tensor:
    return gaussian(n, d, seed=seed, dtype=torch.float32)


def awkward(n: int) -> Tensor:
    """Rows with twins and zeros among them."""
    x = rows(n, seed=n)
    x[n // 2 :: 3] = x[: len(x[n // 2 :: 3])].clone()
    x[1::5] = 0
    return x


@pytest.mark.parametrize("make", [rows, awkward])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_max_min(both, n, k, weighted, make) -> None:
    distances, w = cosine_distances(make(n)), uniform(n, seed=n).float()

    def call(device: str) -> Tensor:
        given = (x.to(device) for x in (distances, w))
        matrix, weights = given
        return max_min(matrix, k, weights, weights if weighted else None)

    found, exact = both(call)
    assert found.device.type == DEVICE
    assert torch.equal(found.cpu(), exact)  # of the same matrix exactly the same
    assert sorted(set(found.tolist())) == sorted(found.tolist())


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_of_max_min_is_its_images(both, weighted) -> None:
    distances = torch.stack([cosine_distances(make(45)) for make in (rows, awkward, rows)])
    first = uniform(3, 45, seed=1).float()

    def call(device: str) -> Tensor:
        start = first.to(device)
        return max_min(distances.to(device), 20, start, start if weighted else None)

    found, exact = both(call)
    assert found.shape == (3, 20)
    assert torch.equal(found.cpu(), exact)
    for b in range(3):
        assert torch.equal(
            exact[b], max_min(distances[b], 20, first[b], first[b] if weighted else None)
        )


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("extra", [0, 13])
@pytest.mark.parametrize(("n", "k"), SHAPES)
def test_coverage(both, n, k, extra, shared) -> None:
    """Of more targets than tokens too; sums round apart, and ties within that go by index."""
    x = awkward(n) if shared else rows(n, seed=n)
    unit = torch.nn.functional.normalize(torch.cat([x, rows(extra, seed=9)]), dim=1)
    similarity, w, f = unit @ unit[:n].T, uniform(n + extra, seed=2), uniform(n, seed=3)
    w, f = w.float(), f.float()
    if shared:  # twins tie
        f = torch.ones(n)

    def call(device: str) -> Tensor:
        given = (t.to(device) for t in (similarity, w, f))
        s, weights, factor = given
        return max_coverage(s, k, weights=weights, factor=factor)

    found, exact = both(call)
    assert torch.equal(found.cpu(), exact)


@pytest.mark.parametrize("start", [-1.0, 0.25])
def test_coverage_from_a_start(both, start) -> None:
    similarity = cosine_distances(rows(50)).neg() + 1
    found, exact = both(lambda device: max_coverage(similarity.to(device), 20, start=start))
    assert torch.equal(found.cpu(), exact)


def test_ties_and_nothing_left_go_by_index(both) -> None:
    for call in (
        lambda device: max_coverage(torch.eye(5).repeat(1, 2).to(device), 10),
        lambda device: max_min(torch.zeros(10, 10, device=device), 10, torch.ones(10).to(device)),
    ):
        found, exact = both(call)
        assert found.tolist() == exact.tolist() == list(range(10))


@pytest.mark.parametrize("name", ["divprune", "k-center", "mmtok", "scope"])
@pytest.mark.parametrize("k", [1, 9, 70])
def test_methods(both, name, k) -> None:
    x, attention = rows(70, seed=4), uniform(4, 70, seed=5).float()
    x[60] = x[3]

    def call(device: str) -> Tensor:
        tokens = VisualTokens(x.to(device), encoder_attention=attention.to(device))
        return get_method(name, keep=k).reduce(tokens).order

    found, exact = both(call)
    assert torch.equal(found.cpu(), exact)


def test_mmtok_with_a_question(both) -> None:
    x, texts = rows(70, seed=6), rows(5, seed=7)

    def call(device: str) -> Tensor:
        query = Query(x.to(device), texts.to(device), source="llm")
        return MMTok(30).reduce(VisualTokens(x.to(device), query=query)).order

    found, exact = both(call)
    assert torch.equal(found.cpu(), exact)


@pytest.mark.parametrize("name", ["divprune", "k-center", "mmtok", "scope"])
def test_bad_rows_are_named(monkeypatch, name) -> None:
    monkeypatch.setattr(greedy, "usable", lambda _: True)
    x = rows(20).to(DEVICE)
    x[7, 3] = float("nan")
    tokens = VisualTokens(x, encoder_attention=torch.ones(1, 20, device=DEVICE))
    with pytest.raises(ValueError, match="first in row 7"):
        get_method(name, keep=4).reduce(tokens)


def test_other_dtypes_and_sizes_go_without_it(monkeypatch) -> None:
    from sparevlm.kernels import MAX_TOKENS
    from sparevlm.kernels import greedy as kernel

    monkeypatch.setattr(kernel, "_run", None)  # not to be called
    x = rows(12).double().to(DEVICE)
    assert len(max_min(cosine_distances(x), 4, torch.ones(12, dtype=x.dtype, device=DEVICE))) == 4
    assert not greedy.in_one_launch(torch.empty(3, MAX_TOKENS + 1, device=DEVICE))
    assert not greedy.in_one_launch(torch.empty(MAX_TOKENS + 1, 3, device=DEVICE))
    assert greedy.in_one_launch(torch.empty(9, 3, device=DEVICE)) == (DEVICE == "cuda")
