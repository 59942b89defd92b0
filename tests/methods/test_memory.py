"""Long videos: beside the features, memory grows with N k, whatever the method."""

from __future__ import annotations

import pytest
import torch

from sparevlm.methods import list_methods, method_class
from sparevlm.methods import vispruner as vispruner_file
from sparevlm.selection import greedy_css
from sparevlm.selection import rows as rows_file
from sparevlm.speed.memory import peak_bytes
from sparevlm.tokens import Query, VisualTokens
from tests.methods.scene import first_layer

ALONE = {"downsample", "zoo-prune"}  # they need the model: encoder, projector
NAMES = [name for name in list_methods() if name not in ALONE]
OF_PAIRS = (
    "divprune",
    "greedy-css",
    "mmtok",
    "scope",
    "volume",
    "vispruner",
    "k-center",
    "cdpruner",
)


def tokens(n: int, width: int = 16) -> VisualTokens:
    draw = torch.Generator().manual_seed(n)
    rows = torch.randn(n, width, generator=draw) * torch.rand(n, 1, generator=draw)
    query = Query(torch.randn(n, 8, generator=draw), torch.randn(3, 8, generator=draw), "llm")
    return VisualTokens(
        rows, query=query, encoder_attention=torch.rand(2, n, generator=draw),
        encoder_keys=torch.randn(n, 2, 8, generator=draw), first_layer=first_layer(),
    )  # fmt: skip


def smaller(monkeypatch, large: int, block: int, listed: int) -> None:
    """The bounds beyond which no matrix of all pairs is made, so that few tokens show it."""
    monkeypatch.setattr(rows_file, "LARGE", large)
    monkeypatch.setattr(rows_file, "_BLOCK", block)
    monkeypatch.setattr(vispruner_file, "_DIRECT", large)
    monkeypatch.setattr(vispruner_file, "_LISTED", listed)


def peak(name: str, n: int, k: int = 6) -> int:
    seen = tokens(n)
    with peak_bytes(torch.device("cpu"), seen.features) as bytes_used:
        method_class(name)(k).reduce(seen)
    return bytes_used[0]


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_linear_in_the_tokens(name, monkeypatch):
    smaller(monkeypatch, 400, 32, 16)
    n = 1604
    used = peak(name, n)
    assert used < 0.4 * 4 * n * n  # of a matrix of all pairs in float32
    assert used < 2.5 * max(peak(name, n // 2 + 2), 4 * n)


@pytest.mark.parametrize("name", OF_PAIRS)
@pytest.mark.parametrize("seed", range(3))
def test_blocks_pick_what_the_matrix_picks(name, seed, monkeypatch):
    seen = tokens(300 + seed, 64)
    expected = method_class(name)(40).reduce(seen).indices
    smaller(monkeypatch, 30, 64, 8)
    assert torch.equal(method_class(name)(40).reduce(seen).indices, expected)


def test_greedy_css_where_downdating_loses_its_digits(monkeypatch):
    """Where the energy falls by many orders: computed anew, the picks are those of the Gram."""
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=draw, dtype=torch.float64)).Q
    fall = torch.logspace(0, -7, 40, dtype=torch.float64)
    rows = torch.randn(120, 40, generator=draw, dtype=torch.float64) * fall @ basis
    expected = greedy_css(rows, 30)
    monkeypatch.setattr(rows_file, "LARGE", 16)
    found = greedy_css(rows, 30)
    assert torch.equal(found.order, expected.order)
    torch.testing.assert_close(found.residual, expected.residual, rtol=1e-4, atol=1e-14)


def test_greedy_css_of_low_rank(monkeypatch):
    rows = torch.randn(90, 5, generator=torch.Generator().manual_seed(1)) @ torch.randn(5, 20)
    monkeypatch.setattr(rows_file, "LARGE", 16)
    found = greedy_css(rows, 12)
    assert len(set(found.order.tolist())) == 12
