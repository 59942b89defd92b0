"""For all tests."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Kernels run in Triton's interpreter, which must be known before anything imports Triton.
    os.environ["TRITON_INTERPRET"] = "1"
