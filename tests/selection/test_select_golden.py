"""Selection reproduces the reference pivots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sparevlm.selection import select
from tests import golden


@pytest.mark.usefixtures("source")
@golden.cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_pivots(path: Path, dtype: torch.dtype) -> None:
    case = np.load(path)
    found = select(torch.from_numpy(case["features"]).to(dtype), int(case["k"]))
    assert found.order.tolist() == case["pivoted_qr_order"].tolist()
