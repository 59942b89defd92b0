"""A package of somebody else, built and installed, adds a method and an engine by a line each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

# Every door at which a method is named, in one process: it starts once.
LOOK = """
import contextlib, io, json, sys, warnings

from sparevlm import cli


def command(*words):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(list(words))
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


picture, folder = sys.argv[1:]
said = {"methods": command("methods", "--json")}
words = ("what color is the star ?", "--method", "Every_Other", "--keep", "7", "--json")
said["ask"] = command("ask", picture, *words, "--max-new-tokens", "2")
few = ("--methods", "every-other", "--keep", "12", "--limit", "1", "--seeds", "1")
said["bench"] = command("bench", *few, "--out", folder)

warnings.simplefilter("ignore")
from sparevlm.integrations.arguments import read_plan
from sparevlm.serving.settings import read_settings, servable

said["lmms"] = repr(read_plan(method="EveryOther", keep="25%").method)
said["served"] = "every-other" in servable()
served = read_settings({"method": "everyother", "keep": "5"}, positions=("original",))
said["server"] = repr(served.method)

import torch
import sparevlm
from sparevlm import SPARE, UniformGrid

said["class"] = sparevlm.EveryOther.__module__
features = [torch.eye(6), torch.eye(4)]
with SPARE(2)(features) as handle:
    said["engine"] = [kept.tolist() for kept in handle.report]
said["inputs"] = list(UniformGrid(1).prune_inputs(features, {}, a=3))
said["asked"] = json.load(open(folder + "/results.json"))["settings"]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where both packages are installed, from wheels that were built of them."""
    folder = tmp_path_factory.mktemp("packages")
    for name in ("good", "broken"):
        source = ROOT / "tests" / "other_packages" / name
        for step in (
            ("wheel", "--wheel-dir", folder / "wheels", "--no-build-isolation", source),
            ("install", "--target", folder / name, "--find-links", folder / "wheels", "--no-index",
             {"good": "pruning-of-others", "broken": "broken-pruning"}[name]),
        ):  # fmt: skip
            command = [sys.executable, "-m", "pip", step[0], "-qq", "--no-deps", *step[1:]]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return folder


def look(folder: Path, *packages: Path) -> dict[str, Any]:
    path = os.pathsep.join(map(str, [*packages, ROOT / "src"]))
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(ROOT / "examples/scene.png"), str(folder / "out")],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def said(site, tmp_path_factory) -> dict[str, Any]:
    return look(tmp_path_factory.mktemp("good"), site / "good", site / "broken")


def test_the_method_is_everywhere(said):
    known = {facts["name"]: facts for facts in json.loads(said["methods"]["out"])}
    assert known["every-other"]["class"] == "EveryOther" and "spare" in known
    asked = json.loads(said["ask"]["out"])
    assert asked["method"] == "every-other" and asked["kept_tokens"] == 7
    assert "every-other" in [setting["method"] for setting in said["asked"]]
    assert said["served"] and said["class"] == "pruning_of_others"
    assert said["lmms"].startswith("EveryOther(keep=0.25")
    assert said["server"].startswith("EveryOther(keep=5")


def test_the_engine_takes_its_models(said):
    assert said["engine"] == [[0, 1], [0, 1]]
    assert said["inputs"] == ["features", "a"]


def test_a_package_that_cannot_be_imported_is_one_warning(said):
    for command in ("methods", "ask", "bench"):
        assert said[command]["code"] == 0
    err = said["methods"]["err"]
    assert err.startswith("sparevlm: warning: broken-pruning offers broken to sparevlm.methods")
    assert "ModuleNotFoundError: No module named 'a_module_that_nobody_has'" in err
    assert err.count("\n") == 1
    assert "broken-pruning" not in said["ask"]["err"]  # said once


def test_without_them_nothing_is_there(site, tmp_path):
    code = "from sparevlm import list_methods; print('every-other' in list_methods())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        cwd=tmp_path, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"
