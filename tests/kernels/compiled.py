"""Compile the kernels for GPUs that need not be here; print what they need, as JSON.

python -m tests.kernels.compiled sm_80 sm_90
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from sparevlm.kernels import gram, greedy, loop, pivoting

INTEGERS = ("n", "m", "d", "by_image", "by_row", "k", "stop")
POINTERS = {
    "exponent": "*i32", "gram": "*fp32", "norm": "*fp64", "size": "*fp64", "weights": "*fp64",
    "values": "*fp32", "factors": "*fp32", "energies": "*fp32", "orders": "*i64", "done": "*i32",
    "states": "*i32", "floors": "*fp32", "tols": "*fp32",
}  # fmt: skip
MATRIX = {"rows": "*fp32", "weights": "*fp32"}  # of the greedy loops
KERNELS = [
    ("rows", gram._row_sizes, {"by_column": 1, "WIDTH": 4096}, 4),
    ("gram", gram._gram, {"by_column": 1, "WIDEN": False, "TILE": 64}, 4),
    ("pivot", pivoting._pivot, {"WEIGHTED": True, "FLOORS": True, "TOLS": True}, None),
    ("farthest", greedy._greedy, {"COVERS": False}, None),
    ("covering", greedy._greedy, {"COVERS": True}, None),
]


def compile_one(kernel: Any, constants: dict[str, Any], images: str, target: str, warps: int):
    """One kernel, with the divisibility by 16 that a launch would find."""
    names = list(inspect.signature(kernel.fn).parameters)
    pointers = POINTERS | MATRIX if kernel is greedy._greedy else POINTERS
    types = {
        name: "constexpr" if name in constants else pointers.get(name)
        or (images if name == "images" else "i32" if name in INTEGERS else "fp32")
        for name in names
    }  # fmt: skip
    divisible = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if types[name].startswith("*") or name in ("n", "m", "d", "by_image", "by_row")
    }
    given = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, types, given, divisible)
    version = int(target.removeprefix("sm_"))
    return triton.compile(
        source, target=GPUTarget("cuda", version, 32), options={"num_warps": warps, "num_stages": 3}
    )


def spilled(ptx: str, target: str) -> int:
    """Bytes of registers that a program must keep in memory, as the assembler says."""
    assembler = get_ptxas(int(target.removeprefix("sm_"))).path
    arch = re.search(r"^\.target (\w+)", ptx, re.M)
    assert arch and arch[1].startswith(target)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        done = subprocess.run(
            [assembler, "-v", f"--gpu-name={arch[1]}", "-o", f"{folder}/kernel.cubin", source],
            capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return sum(int(size) for size in re.findall(r"(\d+) bytes spill stores", done.stderr))


def main(targets: list[str]) -> None:
    """All kernels, dtypes and sizes for all targets."""
    found = []
    for target in targets:
        for dtype in ("bf16", "fp16", "fp32"):
            for name, kernel, constants, warps in KERNELS[:2]:
                if name == "gram":
                    constants = {**constants, "DEPTH": gram.depth(dtype == "fp32")}
                made = compile_one(kernel, constants, "*" + dtype, target, warps)
                found.append((target, name, dtype, made))
        for name, kernel, constants, _ in KERNELS[2:]:
            for tokens in (196, 576, 2880, 8192):
                shape = loop.launch_shape(tokens)
                sizes = {"TOKENS": shape.block, "TARGETS": shape.block}
                if kernel is pivoting._pivot:
                    sizes = {"BLOCK": shape.block, "ROWS": shape.rows}
                made = compile_one(kernel, constants | sizes, "*fp32", target, shape.warps)
                found.append((target, name, str(tokens), made))
    print(
        json.dumps([
            {
                "target": target, "kernel": name, "of": of, "shared": made.metadata.shared,
                "tensor_cores": any(word in made.asm["ptx"] for word in ("wgmma", "mma.sync")),
                "code": len(made.asm["cubin"]), "spilled": spilled(made.asm["ptx"], target),
            }
            for target, name, of, made in found
        ])
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
