"""Versions of what is installed, as constraints of pip; of several environments the lowest, which
all of them take.

python tests/pins.py .venv-newest .venv-demo            # prints constraints
python tests/pins.py --against constraints.txt .venv-newest   # prints what differs
"""

from __future__ import annotations

import argparse
import re
from importlib.metadata import distributions
from pathlib import Path

from packaging.version import Version

HEAD = """\
# What `make ask` and `make test` install: the versions that the tests passed with. pyproject.toml
# states the ranges that work; `make test-newest` tries what is newer, `make pin` writes this file.
# `pip install -c constraints.txt .` installs the same; constraints-torch.txt tells of torch.
"""
OWN = {"pip", "setuptools", "sparevlm"}  # a venv brings the first two


def installed(venv: Path) -> dict[str, str]:
    """Name -> version of what an environment holds; without a build's local mark (+cpu)."""
    sites = [str(path) for path in venv.glob("lib/python*/site-packages")]
    if not sites:
        raise SystemExit(f"{venv} is no virtual environment: make it first")
    found = {}
    for one in distributions(path=sites):
        name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
        if name not in OWN:
            found[name] = one.version.split("+")[0]
    return dict(sorted(found.items()))


def pinned(path: Path) -> dict[str, str]:
    """Name -> version of a file of constraints."""
    lines = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", path.read_text())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("venvs", nargs="+", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    found: dict[str, str] = {}
    for venv in given.venvs:
        for name, version in installed(venv).items():
            found[name] = min(version, found.get(name, version), key=Version)
    if given.against is None:
        print(HEAD + "\n".join(f"{name}=={version}" for name, version in sorted(found.items())))
        return
    known = pinned(given.against)
    for name, version in found.items():
        if known.get(name) != version:
            print(f"new: {name} {known.get(name, '(not there)')} -> {version}")
    if all(known.get(name) == version for name, version in found.items()):
        print(f"new: nothing; all is as in {given.against}")


if __name__ == "__main__":
    main()
