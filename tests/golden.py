"""Where the reference selections lie, as test parameters; visibly skipped where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

GOLDEN = Path(
    os.environ.get("SPAREVLM_GOLDEN")
    or Path(__file__).resolve().parents[1] / ".." / "shared" / "golden"
)
_FOUND = [pytest.param(path, id=path.stem) for path in sorted(GOLDEN.glob("case*.npz"))]
_ABSENT = pytest.param(
    None, marks=pytest.mark.skip(reason="no case*.npz: set SPAREVLM_GOLDEN to their folder")
)

cases = pytest.mark.parametrize("path", _FOUND or [_ABSENT])
