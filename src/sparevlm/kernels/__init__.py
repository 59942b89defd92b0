"""Fused GPU kernels behind the functions of `sparevlm.selection`; they import torch and Triton."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

MAX_TOKENS = 8192  # of one image: one program holds what a step compares in its registers


def usable(rows: Tensor) -> bool:
    """Whether the kernels can work on rows [.., N, D]: Triton, its kind of device, fp32 or less."""
    fits = rows.shape[-2] <= MAX_TOKENS and rows.element_size() <= 4
    return rows.is_cuda and fits and find_spec("triton") is not None
