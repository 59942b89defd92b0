"""How often `prune_inputs` lets the host wait for a GPU: a few times for any prompts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def counted(name: str, *cases: str) -> list[dict[str, int]]:
    """See `waits`, which changes what torch takes for an accelerator: in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.hf.waits", name, *cases],
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


@pytest.mark.parametrize(
    ("name", "limit"),
    [("pocket", 4), ("internvl", 4), ("idefics3", 4), ("llava_next", 6), ("llava_onevision", 7),
     ("qwen2_5_vl", 6)],
)  # fmt: skip
def test_waits_do_not_grow(name, limit) -> None:
    found = counted(name, "1", "8", "1x3")
    assert [of_ours(lines) for lines in found] == [limit] * 3, found


def test_the_pretended_device_counts() -> None:
    """The vision encoder of Qwen2.5-VL looks at its grids: no counter that sees nothing."""
    lines = counted("qwen2_5_vl", "1")[0]
    assert any("grid_thw.tolist()" in line for line in lines)
