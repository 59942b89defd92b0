"""The kernels compile for GPUs that are not here, and use what those have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Shared memory of one program: the least of the GPUs of each generation.
TARGETS = {"sm_80": 164 * 1024, "sm_86": 99 * 1024, "sm_90": 227 * 1024}


@pytest.fixture(scope="module")
def compiled() -> list[dict]:
    surroundings = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.compiled", *TARGETS],
        env=surroundings, cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_every_kernel_compiles(compiled) -> None:
    assert len(compiled) == len(TARGETS) * (3 * 2 + 3 * 4)
    assert all(kernel["code"] > 1000 for kernel in compiled)


def test_shared_memory_suffices(compiled) -> None:
    for kernel in compiled:
        assert kernel["shared"] <= TARGETS[kernel["target"]], kernel


def test_registers_suffice(compiled) -> None:
    """At the sizes of LLaVA-1.5 and LLaVA-NeXT; at 8,192 tokens a few go to memory."""
    for kernel in compiled:
        assert kernel["spilled"] == 0 or kernel["of"] == "8192", kernel


def test_half_precision_products_use_tensor_cores(compiled) -> None:
    """And fp32 ones do not: TF32 would round."""
    for kernel in compiled:
        if kernel["kernel"] == "gram":
            assert kernel["tensor_cores"] == (kernel["of"] != "fp32"), kernel
