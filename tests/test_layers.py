"""Imports point down only, lazy and type-only ones too, and there is no circle."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "sparevlm"
FILES = {
    ".".join(("sparevlm", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in PACKAGE.rglob("*.py")
}


def floors() -> dict[str, int]:
    """Part of the package -> its floor, as CONTRIBUTING.md has it; 0 is the top."""
    told = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"point down only.*?\n\n((?: {4}[^\n]+\n)+)", told, flags=re.S)
    return {part: i for i, line in enumerate(block.splitlines()) for part in line.split()}


def imports(module: str, path: Path) -> set[str]:
    """Modules of ours that a file imports, wherever in it."""
    package = module if path.stem == "__init__" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = resolve_name("." * node.level + base, package)
            found |= {
                f"{base}.{name.name}" if f"{base}.{name.name}" in FILES else base
                for name in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {name for name in found if name.split(".")[0] == "sparevlm"}


IMPORTS = {name: imports(name, path) for name, path in FILES.items()}


def part(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def test_every_part_has_a_floor():
    assert {part(module) for module in FILES} - {"__init__", "__main__"} == set(floors())


def test_imports_point_down_only():
    """The top of the package, whose names are imported when first used, lies above all."""
    height = floors() | {"__init__": -1, "__main__": -2}
    upward = [
        f"{module} imports {other}"
        for module, others in IMPORTS.items()
        for other in others
        if part(module) != part(other) and height[part(module)] >= height[part(other)]
    ]
    assert upward == []


def test_there_is_no_circle():
    # A package's own __init__ gathers names for others: its modules import each other.
    graph = {
        module: {other for other in others if not module.startswith(f"{other}.")}
        for module, others in IMPORTS.items()
    }
    assert sum(map(len, graph.values())) > 300
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {error.args[1]}")


@pytest.mark.parametrize(
    ("module", "blocked"),
    [
        ("sparevlm.selection", ("transformers", "matplotlib", "PIL", "numpy", "numba", "triton")),
        ("sparevlm.methods", ("transformers", "matplotlib", "PIL")),
        ("sparevlm.serving.settings", ("transformers", "matplotlib", "PIL", "vllm")),
        ("sparevlm.families", ("torch", "transformers", "matplotlib", "PIL")),
    ],
)
def test_what_must_not_be_needed(module, blocked):
    code = (
        "import sys\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"import {module}\n"
        "print('ok')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "ok\n", done.stderr[-1500:]


def test_two_engines_side_by_side():
    for module, others in IMPORTS.items():
        if part(module) in ("hf", "serving"):
            other = {"hf": "serving", "serving": "hf"}[part(module)]
            assert not [name for name in others if part(name) == other], module
