"""Seeded matrices that the tests of selection share."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 24)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal entries: no ties and full rank, with probability 1."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Weights in (0, 1]."""
    return torch.from_numpy(1 - np.random.default_rng([seed, 1]).random(shape))


def low_rank(n: int, d: int, rank: int, seed: int = 0) -> Tensor:
    """Rows in a subspace, up to rounding."""
    return gaussian(n, rank, seed=seed) @ gaussian(rank, d, seed=seed + 1)


def uneven(n: int, d: int, decades: float, seed: int = 0) -> Tensor:
    """Rows whose norms spread over so many decades."""
    spread = (uniform(n, 1, seed=seed) - 0.5) * decades
    return gaussian(n, d, seed=seed) * 10**spread


def rotation(d: int, seed: int = 0) -> Tensor:
    """An orthogonal matrix."""
    return torch.linalg.qr(gaussian(d, d, seed=seed))[0]
