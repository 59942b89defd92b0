"""Random visual tokens with everything that a method can ask for, in float64."""

from __future__ import annotations

import numpy as np
import torch

from sparevlm.encoder import FirstLayer, Projector
from sparevlm.tokens import Query, VisualTokens


def everything(
    n=60, dim=24, grid=None, seed=0, dtype=torch.float64, class_token=True, **fields
) -> VisualTokens:
    """Features are the projection of encoder states, 12 wide, by a two-layer network."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    states, first, second = normal(n, 12), normal(12, 16), normal(16, dim)

    def project(rows):
        return torch.nn.functional.gelu(rows.double() @ first) @ second

    def encode(rows, columns):
        return torch.full((rows * columns, dim), 0.5, dtype=dtype)

    given = {
        "query": Query(normal(n, 8), normal(2, 8)),
        "encoder_attention": (normal(4, n).softmax(1), normal(1, n).softmax(1)),
        "encoder_keys": normal(n, 4, 3),
        "projector": Projector(states, project, normal(12) if class_token else None),
        "encode": encode,
        "first_layer": first_layer(),
    }
    features = project(states).to(dtype)
    return VisualTokens(features, grid or shape_of(n), **(given | fields))


def first_layer():
    """Four heads of three channels, of rows up to 64 wide."""
    generator = torch.Generator().manual_seed(9)
    weights = torch.randn(2, 64, 12, generator=generator, dtype=torch.float64)

    def made(which):
        return lambda rows: (rows.double() @ weights[which, : rows.shape[1]]).unflatten(1, (4, 3))

    return FirstLayer(made(0), made(1))


def shape_of(n):
    """Rows and columns with rows * columns = n, as square as can be."""
    rows = max(r for r in range(1, int(n**0.5) + 1) if n % r == 0)
    return rows, n // rows


def numbers(tokens: VisualTokens):
    """What a literal reference reads, as numpy arrays: x, v (states), a, keys, project."""
    return (
        tokens.features.numpy(),
        tokens.states().numpy(),
        tokens.attention().numpy(),
        tokens.keys().numpy(),
        lambda rows: tokens.project(torch.from_numpy(np.asarray(rows))).numpy(),
    )


def cosine(a, b):
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def by_size(values):
    """Indices from the largest value to the smallest; ties by index."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))
