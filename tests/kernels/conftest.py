"""Kernels run in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before the kernels are imported, which nothing else does
pytest.importorskip("triton", reason="Triton has no build for this platform")
