#!/usr/bin/env bash
# `pytest -n 2 --dist loadgroup` and the mark `xdist_group`, pytest 9.2.0 with pytest-xdist 3.8.0, the
# newest of both.
#
# Expected: tests of one group run in one worker, as pytest-xdist's documentation says.
# Seen: they are spread over both, without a warning. xdist writes the group behind an item's
# `_nodeid`, which pytest 9.2 no longer reads; with pytest 9.1.1 the group holds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
cat > "$folder/test_group.py" <<'PY'
import os
import time
from pathlib import Path

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("i", range(8))
def test_of_the_group(i):
    time.sleep(0.2)
    with (Path(__file__).parent / "workers").open("a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
PY
workers() {
    "$folder/venv/bin/python" -m pip install -q "pytest==$1" pytest-xdist==3.8.0
    rm -f "$folder/workers"
    (cd "$folder" && venv/bin/python -m pytest -q -n 2 --dist loadgroup test_group.py > log) ||
        { cat "$folder/log"; exit 1; }
    sort -u "$folder/workers" | wc -l
}
before=$(workers 9.1.1)
after=$(workers 9.2.0)
echo "expected: 1 worker"
echo "seen: pytest 9.1.1 $before, pytest 9.2.0 $after"
if [ "$before" != 1 ] || [ "$after" != 2 ]; then
    echo "this has changed" >&2
    exit 1
fi
