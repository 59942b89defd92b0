"""Our methods beside the loops that their authors publish, on features without ties."""

from __future__ import annotations

import pytest
import torch

from bench import published_loops as published
from bench.peers import make
from sparevlm.methods import DART, get_method
from sparevlm.selection import unit_rows
from sparevlm.tokens import VisualTokens

SEEDS = range(25)


@pytest.mark.parametrize("name", ["divprune", "cdpruner", "vispruner", "scope", "mmtok"])
def test_all_pick_the_same(name):
    draw = torch.Generator().manual_seed(0)
    for seed in SEEDS:
        n, d = (int(torch.randint(40, most, (1,), generator=draw)) for most in (400, 200))
        k = int(torch.randint(8, min(n, d) // 2, (1,), generator=draw))
        picture = make(n, d, seed)
        ours = get_method(name, k).reduce(picture.tokens).indices
        assert torch.equal(ours, picture.theirs[name](k).sort().values), seed


def by_turns(features, norms, pivots, share):
    """The authors' loop with pivots in the order of their norms."""
    turns = norms.topk(pivots).indices.tolist()
    unit, free = unit_rows(features), set(range(len(features))) - set(turns)
    kept = list(turns)
    for pivot in turns:
        kept += sorted(free, key=lambda i: float(unit[pivot] @ unit[i]))[:share]
        free -= set(kept)
    return torch.tensor(sorted(kept))


def test_dart_differs_by_whose_turn_it_is_alone():
    """In their order of pivots; in that of a Python set, by where the picture begins too."""
    alike = moved = 0
    for seed in SEEDS:
        x = torch.randn(120, 40, generator=torch.Generator().manual_seed(seed))
        norms = x.abs().sum(1)
        ours = DART(48, pivots=8).reduce(VisualTokens(x)).indices
        assert torch.equal(ours, by_turns(x, norms, 8, 5))
        theirs = [published.dart(x, norms, 8, 5, first) for first in (0, 5, 35)]
        alike += torch.equal(ours, theirs[0])
        moved += any(not torch.equal(theirs[0], other) for other in theirs[1:])
    assert alike < len(SEEDS) and moved > 0
