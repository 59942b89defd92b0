"""The README's Python runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_python_example():
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("three\n196 -> 12 tokens in ")


def test_what_load_gives() -> None:
    """Its types are real, and `help` says them."""
    import transformers

    from sparevlm import load

    given = load.__annotations__["return"]
    assert given == "tuple[PreTrainedModel, ProcessorMixin]"
    for thing, name in zip(load("pocket"), re.findall(r"\w+", given)[1:], strict=True):
        assert isinstance(thing, getattr(transformers, name))


@pytest.mark.slow
def test_python_example_has_types(tmp_path):
    """As a user's mypy sees it, with whatever types transformers has."""
    pytest.importorskip("mypy")
    text = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    told = "\nreveal_type(model)\nreveal_type(processor)\n"
    (tmp_path / "readme.py").write_text(code + told)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir=.cache", "readme.py"],
        cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
    )  # fmt: skip
    ours = [line for line in done.stdout.splitlines() if line.startswith("readme.py")]
    assert not any(": error: " in line for line in ours), done.stdout
    for name, line in zip(("PreTrainedModel", "ProcessorMixin"), ours, strict=True):
        assert f'{name}"' in line


def test_what_is_named_exists():
    text = (ROOT / "README.md").read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / target).exists(), target
    for name in re.findall(r"`(bench/\S+\.py|examples/\S+)`", text):
        assert (ROOT / name).exists(), name


def test_is_read_in_a_minute():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def test_what_is_counted_is_right():
    from sparevlm import list_methods
    from sparevlm.families import FAMILIES

    text = (ROOT / "README.md").read_text()
    assert f"[{len(list_methods(inside=None))} methods]" in text
    assert f"[{len(FAMILIES)} model types]" in text
