"""Selection reproduces the reference pivots."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparevlm.selection import select

GOLDEN = Path(
    os.environ.get("SPAREVLM_GOLDEN")
    or Path(__file__).resolve().parents[2] / ".." / "shared" / "golden"
)
CASES = sorted(GOLDEN.glob("case*.npz"))


def _case(path: Path) -> Any:
    return pytest.param(path, id=path.stem)


ABSENT = pytest.param(
    None, marks=pytest.mark.skip(reason="no case*.npz: set SPAREVLM_GOLDEN to their folder")
)


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize("path", [_case(path) for path in CASES] or [ABSENT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_pivots(path: Path, dtype: torch.dtype) -> None:
    case = np.load(path)
    found = select(torch.from_numpy(case["features"]).to(dtype), int(case["k"]))
    assert found.order.tolist() == case["pivoted_qr_order"].tolist()
