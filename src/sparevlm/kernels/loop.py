"""What kernels share whose greedy loop runs inside one launch, one program an image."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl


@dataclass(frozen=True)
class Shape:
    """How one program works on an image: columns, rows read at once, warps."""

    block: int
    rows: int
    warps: int


def launch_shape(n: int) -> Shape:
    """For images of n tokens. All columns stay in registers: 16 a thread for a chunk of rows."""
    block = triton.next_power_of_2(n)
    return Shape(block, max(1, min(8, 16384 // block)), max(4, min(32, block // 128)))


@triton.jit
def lowest(value, bar, tokens, BLOCK: tl.constexpr):
    """The lowest of `tokens` [BLOCK] whose value is at least `bar`; BLOCK if there is none."""
    return tl.min(tl.where(value >= bar, tokens, BLOCK), 0)
