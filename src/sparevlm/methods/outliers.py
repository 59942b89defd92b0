"""Tukey's rule: which values lie far above the others."""

from __future__ import annotations

import torch
from torch import Tensor


def upper_outliers(values: Tensor) -> Tensor:
    """Which of values [N] exceed Q3 + 1.5 (Q3 - Q1), quartiles by linear interpolation: bool."""
    low, high = torch.quantile(values, values.new_tensor([0.25, 0.75]))
    return values > high + 1.5 * (high - low)
