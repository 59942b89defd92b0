"""What was found about the software of others can be run again by anybody."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "findings"
SCRIPTS = sorted(FOLDER.glob("*.sh"))


def test_the_index_names_each():
    told = (FOLDER / "README.md").read_text()
    assert SCRIPTS and re.findall(r"`(\w+\.sh)`", told) == [path.name for path in SCRIPTS]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_finding_stands_on_its_own(path):
    """It parses, works in a folder that it removes, pins what it installs, and is not about us."""
    text = path.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", path], check=True)
    assert "mktemp -d" in code and "trap" in code and "sparevlm" not in code
    assert re.search(r"transformers==\S", code) and re.search(r"torch==\d", code)
    assert all(word in text for word in ("Expected", "Seen"))
