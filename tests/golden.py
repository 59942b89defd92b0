"""Reference selections, as test parameters; SPAREVLM_GOLDEN names a folder of others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "golden_cases"
FOLDER = Path(os.environ.get("SPAREVLM_GOLDEN") or HERE)
_FOUND = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("case*.npz"))]
if not _FOUND:
    raise FileNotFoundError(f"no case*.npz in {FOLDER}: set SPAREVLM_GOLDEN to their folder")

cases = pytest.mark.parametrize("path", _FOUND)
