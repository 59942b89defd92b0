"""How often `prune_inputs` lets the host wait for a GPU: a few times for any prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMITS = {
    "pocket": 4, "internvl": 4, "idefics3": 4, "llava_next": 6, "llava_onevision": 7,
    "qwen2_5_vl": 6,
}  # fmt: skip


@pytest.fixture(scope="module")
def counted() -> dict[str, list[dict[str, int]]]:
    """See `waits`, which changes what torch takes for an accelerator: in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hf.waits", ",".join(LIMITS), "1", "8", "1x3"],
        cwd=Path(__file__).parents[2], env=dict(os.environ), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def of_ours(lines: dict[str, int]) -> int:
    """Without the vision encoder's own, and without selections, which look for NaN."""
    return sum(
        count
        for line, count in lines.items()
        if line.startswith("sparevlm/") and not line.startswith("sparevlm/selection/")
    )


@pytest.mark.parametrize("name", LIMITS)
def test_waits_do_not_grow(counted, name) -> None:
    found = counted[name]
    assert [of_ours(lines) for lines in found] == [LIMITS[name]] * 3, found


def test_the_pretended_device_counts(counted) -> None:
    """The vision encoder of Qwen2.5-VL looks at its grids: no counter that sees nothing."""
    lines = counted["qwen2_5_vl"][0]
    assert any("grid_thw.tolist()" in line for line in lines)
