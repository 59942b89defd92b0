"""The examples run, as a reader would run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, folder: Path) -> str:
    shutil.copytree(EXAMPLES, folder / "examples")
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent / "src")},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_there_are_no_others() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {
        "compare_methods", "error_budget", "first_answer", "own_method", "shared_budget",
    }  # fmt: skip
    told = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.py`" in told for name in names)


def test_first_answer(tmp_path) -> None:
    said = run("first_answer", tmp_path).splitlines()
    assert said[1] == "with all tokens: three" and said[2] == "with 12 tokens:  three"
    assert "unexplained" in said[3]


def test_compare_methods(tmp_path) -> None:
    lines = run("compare_methods", tmp_path).splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["spare", "divprune", "visionzip", "random"]
    width, height = Image.open(tmp_path / "out/compare_methods.png").size
    assert width > 3.9 * height


def test_error_budget(tmp_path) -> None:
    lines = run("error_budget", tmp_path).splitlines()
    counts = [int(line.split(" of ")[0].split()[-1]) for line in lines[:3]]
    assert counts[2] < min(counts[:2])  # nothing needs least
    assert Image.open(tmp_path / "out/error_budget.png").size[0] > 500


@pytest.mark.slow
def test_own_method(tmp_path) -> None:
    said = run("own_method", tmp_path)
    assert "edges" in said and "spare" in said
    assert (tmp_path / "out/own_method/report.html").is_file()


def test_shared_budget(tmp_path) -> None:
    lines = run("shared_budget", tmp_path).splitlines()
    shares = [int(line.split()[2]) for line in lines[1:]]
    assert sum(shares) == 48
    assert shares[1] == shares[2] == shares[4] == 0  # they repeat a frame before them
    assert shares[0] > 0 and shares[3] > 0
