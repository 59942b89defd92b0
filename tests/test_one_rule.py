"""The rule that is tried against all methods, and the tables of its page."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.studies import one_rule
from bench.studies.real.rows import SCENES
from bench.studies.rules.sketched import SketchedCSS
from sparevlm import VisualTokens, greedy_css, list_methods
from sparevlm.selection import reconstruction_error


def rows(n: int = 90, d: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, d, generator=generator) * torch.linspace(3, 0.3, d)


def order(features: torch.Tensor, k: int, **settings: float) -> torch.Tensor:
    found = SketchedCSS(k, **settings).reduce(VisualTokens(features)).order
    assert found is not None
    return found


def test_without_mixtures_it_is_greedy_css():
    features = rows()
    assert torch.equal(order(features, 20, exponent=0.0, columns=0), greedy_css(features, 20).order)
    shortened = features / features.norm(dim=1, keepdim=True) ** 0.5
    wanted = greedy_css(shortened, 20).order
    assert torch.equal(order(features, 20, exponent=0.5, columns=0), wanted)


def test_mixtures_come_near_it():
    features = rows()
    exact, mixed, few = (order(features, 12, exponent=0.0, columns=c) for c in (0, 64, 1))
    left = [float(reconstruction_error(features, one)) for one in (exact, mixed, few)]
    assert left[0] < left[1] < left[2] and left[1] < 1.2 * left[0]


@pytest.mark.parametrize("columns", [0, 8])
def test_of_low_rank_it_still_keeps_as_many(columns):
    features = torch.cat([rows(3, 5), torch.zeros(4, 5)])
    found = order(features, 6, columns=columns)
    assert sorted(found[:3].tolist()) == [0, 1, 2] and len(set(found.tolist())) == 6


def test_it_is_no_method_of_the_package():
    assert SketchedCSS.name not in list_methods()


def made() -> dict[tuple[str, str, int], np.ndarray]:
    """Every rule is right where no rival is, but one rule with one budget, where all are right."""
    right = {}
    for scenes in SCENES:
        for k in one_rule.BUDGETS:
            for name in one_rule.rivals():
                right[scenes, name, k] = np.zeros(20)
            for name in one_rule.RULES:
                right[scenes, name, k] = np.ones(20)
    first = next(iter(one_rule.RULES))
    right["dense", first, 22] = np.zeros(20)
    return right


def test_tables():
    first, second, *_ = one_rule.RULES
    text = one_rule.answers(made())
    assert f"| {second} | **100.0** |" in text and "| spare | 0.0 |" in text
    lines = one_rule.ahead(made()).splitlines()
    assert lines[2].startswith(f"| {first} | 8 / 0 |")
    assert lines[3].startswith(f"| {second} | 9 / 0 |")


def test_ahead_of_all_means_in_every_column():
    first, second, *_ = one_rule.RULES
    assert one_rule.clear(made(), second) and not one_rule.clear(made(), first)


def test_room_counts_columns_without_any():
    found = made()
    for name in one_rule.rivals():
        found["plain", name, 11] = np.ones(20)
    text = one_rule.room(found, list(one_rule.RULES)[1])
    assert text.startswith("In 1 of nine columns") and "| plain | 11 | spare | 0.0 |" in text
