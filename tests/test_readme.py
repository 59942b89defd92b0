"""The README's Python runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_python_example():
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("three\n196 -> 12 tokens in ")


def test_what_is_named_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"`(bench/\S+\.py|examples/\S+)`", text):
        assert (ROOT / name).exists(), name


def test_methods_table_is_complete():
    from sparevlm import list_methods

    text = (ROOT / "README.md").read_text()
    for name in list_methods(inside=None):
        assert f"| `{name}` |" in text, name
