"""The studies run from end to end on a few questions, and go on where they stopped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.studies import __main__ as studies
from bench.studies import natural, reconstruction
from bench.studies.common import Bench, Outcome, Page
from bench.studies.real.rows import Rows
from sparevlm.hf.loading import SHIPPED
from sparevlm.methods.base import _REGISTRY

ROOT = Path(__file__).parents[1]
_REGISTRY.pop("relevance-alone")  # the studies' own: other tests run over all methods


def run(name, folder):
    command = [sys.executable, "-m", "bench.studies", name, "--limit", "5"]
    command += ["--answers", str(folder / "answers"), "--out", str(folder / "docs")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_a_study(tmp_path):
    assert run("magnitude", tmp_path).stdout == f"{tmp_path}/docs/magnitude.md\n"
    page = tmp_path / "docs" / "magnitude.md"
    text = page.read_text()
    assert (
        "python -m bench.studies magnitude --limit 5" in text and "| guidance none | 11 |" in text
    )
    answers = sorted(tmp_path.rglob("answers.jsonl"))
    before = [path.stat().st_size for path in answers]
    run("magnitude", tmp_path)
    assert page.read_text() == text and [path.stat().st_size for path in answers] == before


def test_figures(tmp_path):
    run("budgets", tmp_path)
    text = (tmp_path / "docs" / "budgets.md").read_text()
    for figure in ("budgets-residual.png", "budgets-joint.png"):
        assert figure in text and (tmp_path / "docs" / figure).stat().st_size > 5000


def test_rank_correlation():
    values = np.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 1.0, 1.0]])
    found = reconstruction._spearman(np.array([1.0, 2.0, 3.0, 4.0]), values)
    assert found == pytest.approx([-1.0, 1.0, 0.0])


def test_differences_are_paired():
    one = Outcome(np.array([1.0, 1.0, 0.0, 1.0]), 0.1, 12)
    other = Outcome(np.array([0.0, 1.0, 0.0, 1.0]), 0.2, 12)
    assert one.minus(other).startswith("+25.0 [")
    assert one.minus(other, np.array([False, True, True, True])) == "+0.0 [+0.0, +0.0]"


def test_the_pages_are_there_and_of_this_repository():
    folder = ROOT / "docs" / "studies"
    for name in studies.STUDIES:
        text = (folder / f"{name}.md").read_text()
        assert f"python -m bench.studies {name} --limit" in text
        for figure in [part.split(")")[0] for part in text.split("](")[1:]]:
            assert (folder / figure).exists() or figure.startswith(("http", "..")), figure


def test_answers_of_other_weights_are_not_taken(tmp_path, monkeypatch):
    first = Bench(tmp_path, 10).out
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"others")
    monkeypatch.setitem(SHIPPED, "pocket", weights)
    assert Bench(tmp_path, 10).out != first


def test_the_shipped_models_side_by_side(tmp_path, monkeypatch):
    for name, value in (("KEPT", (11,)), ("RIVALS", ("uniform",)), ("PICTURES", 3)):
        monkeypatch.setattr(natural, name, value)
    page = Page(tmp_path, "natural")
    natural.study(Bench(tmp_path / "answers", 5), page)
    text = (tmp_path / "natural.md").read_text()
    assert "| kept by | pocket, 11 | pocket-natural, 11 |" in text
    assert {"spare", "uniform", "random"} <= set(re.findall(r"^\| (\w+) \|", text, flags=re.M))
    assert len({path.parts[-4] for path in tmp_path.rglob("answers.jsonl")}) > 1  # a model each


def test_length_of_things_over_background():
    features = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    rows = Rows("two", [features, 3 * features], [np.array([0, 1, -1, -1])] * 2)
    assert natural._on_things(rows) == pytest.approx(2.0)
