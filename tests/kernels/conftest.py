"""Kernels, in Triton's interpreter where there is no GPU (see tests/conftest.py)."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton has no build for this platform")
