"""The fused kernel picks what the torch path picks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from sparevlm.kernels.gram import scaled_gram
from sparevlm.methods import CDPruner
from sparevlm.selection import Selection, pivoting, select
from sparevlm.tokens import Query, VisualTokens
from tests import golden
from tests.selection.data import gaussian, low_rank, uniform

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """`select` takes the kernel; gives the numbers of steps that runs were asked for."""
    from sparevlm.selection.fused import FusedRun

    asked: list[int] = []

    class Counted(FusedRun):
        def advance(self, stop: int, tol: float = 0.0) -> None:
            asked.append(stop)
            super().advance(stop, tol)

    monkeypatch.setattr("sparevlm.selection.fused.FusedRun", Counted)
    monkeypatch.setattr(pivoting, "usable", lambda rows: rows.element_size() <= 4)
    monkeypatch.setattr(pivoting, "_wants_gram", lambda *_: True)
    yield asked
    assert asked, "the kernel was not used"


def torch_path(features: torch.Tensor, k: int, **given: Any) -> Selection:
    """What `select` picks in fp64."""
    return select(features.cpu().double(), k, **given)  # float64 never takes the kernel


SHAPES = [(1, 5, 3), (49, 32, 12), (64, 64, 64), (65, 7, 20), (130, 64, 40), (196, 256, 12)]
# The dtype ends where the product is made; weights begin behind it.
LOADED = [(*shape, dtype, False) for shape in SHAPES for dtype in (torch.bfloat16, torch.float16)]
PIVOTED = [(*shape, torch.float32, weighted) for shape in SHAPES for weighted in (False, True)]


@pytest.mark.parametrize(
    ("n", "d", "k", "dtype", "weighted"), [*LOADED[:4], LOADED[-2], LOADED[-1], *PIVOTED]
)
def test_picks_as_without_it(fused, n, d, k, dtype, weighted) -> None:
    x = gaussian(n, d, seed=n).to(DEVICE, dtype)
    w = uniform(n, seed=n) if weighted else None
    found, exact = select(x, k, weights=w), torch_path(x, k, weights=w)
    rank = int((exact.residual[:-1] > 1e-5).sum())  # less is near the end of fp32
    assert rank >= 0.9 * min(n, d, k)
    assert torch.equal(found.order[:rank].cpu(), exact.order[:rank])
    assert sorted(set(found.order.tolist())) == sorted(found.order.tolist())
    assert torch.allclose(found.residual.cpu().double(), exact.residual, atol=2e-6)


def test_batch_equals_singles(fused) -> None:
    x = torch.stack((gaussian(70, 30, seed=2), low_rank(70, 30, 9, seed=3), gaussian(70, 30)))
    x, w = x.to(DEVICE, torch.float32), uniform(70, seed=4)
    for given in ({}, {"weights": w}, {"tol": 0.3}):
        found = select(x, 40, **given)
        for b in range(3):
            single = select(x[b].clone(), 40, **given)
            count = int(single.count)
            assert int(found.count[b]) == count
            assert torch.equal(found.order[b, :count], single.order)
            assert torch.equal(found.residual[b, : count + 1], single.residual)


def test_ties_go_to_the_lowest_index(fused) -> None:
    """Of entries whose squares and products are exact."""
    x = torch.eye(90, 16).roll(7, 0).repeat(2, 1).to(DEVICE)
    assert select(x, 16).order.tolist() == list(range(7, 23))


def test_twins_tie_up_to_rounding(fused) -> None:
    x = gaussian(40, 24, seed=5, dtype=torch.float32).to(DEVICE)
    found = select(torch.cat((x, x)), 24).order
    assert found.max() < 40


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_left_of_a_low_rank_goes_by_size(fused, weighted) -> None:
    x, w = low_rank(80, 40, 5, seed=4).to(DEVICE), uniform(80, seed=6) if weighted else None
    found = select(x.float(), 60, weights=w)
    exact = select(x.cpu(), 60, weights=w)
    assert torch.equal(found.order.cpu(), exact.order)
    assert float(found.residual[-1]) < 1e-6
    assert torch.equal(found.residual[6:], found.residual[5].expand(55))


def test_zero_rows_and_all_zero(fused) -> None:
    x = torch.zeros(6, 4, device=DEVICE)
    assert select(x, 3).order.tolist() == [0, 1, 2]
    assert select(x, 3).residual.tolist() == [0, 0, 0, 0]
    x[4] = 1
    assert select(x, 3).order.tolist() == [4, 0, 1]


@pytest.mark.parametrize("power", [-140, -100, -30, -21, 21, 40, 120])
def test_any_size_of_rows(fused, power) -> None:
    """A power of two changes nothing, down to subnormal rows; nor do rows of very unlike sizes."""
    x = gaussian(30, 20, seed=7, dtype=torch.bfloat16).float()
    x[9] = 0
    plain = select(x.to(DEVICE), 20)
    scaled = select((x.double() * 2.0**power).float().to(DEVICE), 20)
    assert torch.equal(plain.order, scaled.order)
    if power > -130:  # above, the entries are the same numbers
        assert torch.equal(plain.residual, scaled.residual)
    x[:5] = (x[:5].double() * 2.0**power).float()
    x[6] = 0
    found, exact = select(x.to(DEVICE), 30), torch_path(x, 30)
    rank = int((exact.residual > 1e-10).sum())
    assert torch.equal(found.order[:rank].cpu(), exact.order[:rank])


def test_weights_of_any_size(fused) -> None:
    x, w = gaussian(30, 20, seed=8, dtype=torch.float32).to(DEVICE), uniform(30, seed=8)
    plain = select(x, 20, weights=w)
    for scale in (2.0**-1000, 2.0**-60, 2.0**60, 2.0**1000):
        assert torch.equal(select(x, 20, weights=w * scale).order, plain.order)
    assert select(x, 3, weights=torch.zeros(30)).residual.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_bad_rows_are_named(fused, value, dtype) -> None:
    x = gaussian(2, 20, 70, seed=9).to(DEVICE, dtype)
    x[1, 7, 66] = value
    with pytest.raises(ValueError, match="first in image 1, row 7"):
        select(x, 4)
    with pytest.raises(ValueError, match="first in row 7"):
        select(x[1], 4)


def test_bad_rows_count_as_zero_where_nothing_can_be_raised(fused, monkeypatch) -> None:
    from sparevlm.selection import fused as module

    monkeypatch.setattr(module, "can_look", lambda _: False)
    x = gaussian(70, 24, seed=10, dtype=torch.float32).to(DEVICE)
    zeroed, odd = x.clone(), x.clone()
    zeroed[66], odd[66] = 0, float("nan")
    assert torch.equal(select(odd, 20).order, select(zeroed, 20).order)


@golden.cases
def test_golden(fused, path) -> None:
    case = np.load(path)
    found = select(torch.from_numpy(case["features"]).float().to(DEVICE), int(case["k"]))
    assert found.order.tolist() == case["pivoted_qr_order"].tolist()


@golden.cases
def test_golden_dpp(fused, path) -> None:
    case = np.load(path)
    query = Query(torch.from_numpy(case["patch_embeds"]), torch.from_numpy(case["text_embeds"]))
    tokens = VisualTokens(torch.from_numpy(case["features"]).float(), query=query)
    kept = CDPruner(int(case["k"])).reduce(tokens).indices
    assert kept.tolist() == case["cdpruner_kept"].tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_gram_matrix(dtype) -> None:
    x = gaussian(2, 100, 70, seed=11).to(DEVICE, dtype)
    x[1, 3] *= 2.0**-15
    gram, exponent, norm = scaled_gram(x)
    rows = x.double() * torch.exp2(-exponent.double())[..., None]
    assert torch.allclose(gram.double(), rows @ rows.mT, rtol=1e-5, atol=1e-4)
    assert torch.equal(gram[:, :64, 64:], gram[:, 64:, :64].mT)
    assert torch.allclose(norm, x.double().norm(dim=-1), rtol=1e-6)
    assert not exponent.any()
    assert scaled_gram(x * 2.0**-30 if dtype != torch.float16 else x * 2.0**-22)[1].any()


def test_strided_features(fused) -> None:
    x = gaussian(40, 3, 50, seed=12, dtype=torch.float32).to(DEVICE)
    turned, sliced = x.transpose(0, 1), x[:, :, ::2]
    assert torch.equal(select(turned, 9).order, select(turned.contiguous(), 9).order)
    assert torch.equal(select(sliced, 2).order, select(sliced.contiguous(), 2).order)
