"""Methods under autocast: what they compare is compared as without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparevlm.encoder import FirstLayer, Projector
from sparevlm.methods import get_method, list_methods
from sparevlm.tokens import Query, VisualTokens

N, D, STATES, HEADS = 64, 24, 16, 4


def everything() -> VisualTokens:
    """A picture with all that methods ask for."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        projector, queries, keys = nn.Linear(STATES, D), nn.Linear(D, D), nn.Linear(D, D)
    states = normal(N, STATES)
    return VisualTokens(
        projector(states).detach(),
        (8, 8),
        query=Query(normal(N, 12), normal(5, 12)),
        encoder_attention=tuple(normal(HEADS, N).softmax(1) for _ in range(2)),
        encoder_keys=normal(N, HEADS, 4),
        projector=Projector(states, projector, normal(STATES)),
        first_layer=FirstLayer(
            lambda words: queries(words[:, :1].expand(-1, D)).unflatten(1, (HEADS, -1)),
            lambda rows: keys(rows).unflatten(1, (HEADS, -1)),
        ),
        encode=lambda rows, columns: normal(rows * columns, D),
    )


@pytest.mark.parametrize("name", list_methods())
@torch.no_grad()
def test_same_under_autocast(name: str) -> None:
    method, tokens = get_method(name, 9), everything()
    wanted = method.reduce(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = method.reduce(tokens)
    assert torch.equal(found.indices, wanted.indices)
    if name != "downsample" and wanted.features is not None:
        assert torch.equal(found.features, wanted.features)
