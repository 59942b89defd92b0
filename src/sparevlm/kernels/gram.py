"""Inner products of all pairs of rows, each row scaled to a safe size, and the rows' norms."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BAD = tl.constexpr(1 << 20)  # the exponent of a row with NaN or infinity
SAFE = tl.constexpr(20)  # rows whose largest entry lies between 2**-20 and 2**21 stay as they are
_TILE = 64  # rows and columns of the Gram matrix that one program computes
_ROW = 4096  # features of a row read at once


def scaled_gram(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gram matrices of rows scaled by powers of two, what the scales were, and the norms.

    A tile is always computed alike, so that an image's numbers do not depend on its company, as
    they may with a library's batched product. Half of the tiles are mirrored, not computed.

    Parameters
    ----------
    images : Tensor [B, N, D], bf16, fp16 or fp32
        Any strides. Products of bf16 and fp16 are exact, those of fp32 are never TF32; all are
        summed in fp32.

    Returns
    -------
    gram : Tensor [B, N, N], float32
        Of the rows divided by 2**exponent.
    exponent : Tensor [B, N], int32
        Brings the row's largest entry to [1, 2); 0 for rows of a size whose squares are safe.
        `BAD` for rows with NaN or infinity, which count as zero rows.
    norm : Tensor [B, N], float64
        Euclidean norms of the rows as they came.
    """
    total, n, d = images.shape
    gram = images.new_empty(total, n, n, dtype=torch.float32)
    exponent = images.new_empty(total, n, dtype=torch.int32)
    norm = images.new_empty(total, n, dtype=torch.float64)
    strides = images.stride()
    _row_sizes[(n, total)](
        images, exponent, norm, n, d, *strides, min(_ROW, triton.next_power_of_2(d)), num_warps=4
    )
    side = triton.cdiv(n, _TILE)
    # Triton's interpreter multiplies the bits of bf16.
    widen = images.dtype == torch.bfloat16 and not isinstance(_gram, triton.runtime.JITFunction)
    _gram[(side * (side + 1) // 2, total)](
        images, exponent, gram, n, d, *strides, widen, _TILE, depth(images.dtype == torch.float32),
        num_warps=4, num_stages=3,
    )  # fmt: skip
    return gram, exponent, norm


def depth(wide: bool) -> int:
    """Features that a step multiplies, of fp32 (wide) or of half precision."""
    return 32 if wide else 64


@triton.jit
def _row_sizes(images, exponent, norm, n, d, by_image, by_row, by_column, WIDTH: tl.constexpr):
    """Norms and exponents, one program a row."""
    row, image = tl.program_id(0), tl.program_id(1)
    start = images + image.to(tl.int64) * by_image + row.to(tl.int64) * by_row
    columns = tl.arange(0, WIDTH)
    peaks = tl.zeros((WIDTH,), tl.float32)
    odd = tl.zeros((WIDTH,), tl.int32)
    for first in range(0, d, WIDTH):
        here = first + columns
        x = tl.load(start + here * by_column, mask=here < d, other=0.0).to(tl.float32)
        finite = tl.abs(x) < float("inf")  # false for NaN too
        odd = odd | (finite == 0).to(tl.int32)
        peaks = tl.maximum(peaks, tl.where(finite, tl.abs(x), 0.0))
    bad = tl.max(odd, 0) > 0
    peak = tl.max(peaks, 0)
    # Subnormal rows (below 1e-38) are lifted first, so that the exponent's bits tell their size.
    tiny = peak < 1.1754943508222875e-38
    bits = (peak * tl.where(tiny, 16777216.0, 1.0)).to(tl.int32, bitcast=True)
    power = (bits >> 23) - 127 - tl.where(tiny, 24, 0)
    safe = (peak == 0) | ((power >= -SAFE) & (power <= SAFE))
    power = tl.where(safe, 0, power)
    scale = _power_of_two(-power)
    squares = tl.zeros((WIDTH,), tl.float32)
    for first in range(0, d, WIDTH):
        here = first + columns
        x = tl.load(start + here * by_column, mask=here < d, other=0.0).to(tl.float32)
        y = (x.to(tl.float64) * scale).to(tl.float32)
        squares += y * y
    length = tl.sqrt(tl.sum(squares, 0)).to(tl.float64) / scale
    out = image * n + row
    tl.store(exponent + out, tl.where(bad, BAD, power))
    tl.store(norm + out, tl.where(bad, 0.0, length))


@triton.jit
def _power_of_two(power):
    """2**power in float64, |power| < 1022."""
    return ((power.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def _tile(image, rows, here, n, d, by_row, by_column):
    """Rows [TILE, DEPTH] as they are; zero outside."""
    inside = (rows < n)[:, None] & (here < d)[None, :]
    at = rows.to(tl.int64)[:, None] * by_row + here[None, :] * by_column
    return tl.load(image + at, mask=inside, other=0.0)


@triton.jit
def _scaled(x, power):
    """Rows x [TILE, DEPTH] over 2**power [TILE]; zeros for `BAD` rows."""
    # Two factors, since one may leave the range of float32.
    half = tl.where(power == BAD, 0, power) >> 1
    first = ((127 - half) << 23).to(tl.float32, bitcast=True)
    second = ((127 - (power - half)) << 23).to(tl.float32, bitcast=True)
    y = x.to(tl.float32) * first[:, None] * second[:, None]
    return tl.where((power == BAD)[:, None], 0.0, y).to(x.dtype)


@triton.jit
def _gram(
    images, exponent, gram, n, d, by_image, by_row, by_column,
    WIDEN: tl.constexpr, TILE: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of the lower triangle and its mirror image, one program a tile."""
    pair, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    # pair = i (i + 1) / 2 + j with j <= i; the root is off by one at most.
    i = ((tl.sqrt(8.0 * pair + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > pair, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= pair, i + 1, i)
    j = pair - i * (i + 1) // 2
    rows, columns = i * TILE + tl.arange(0, TILE), j * TILE + tl.arange(0, TILE)
    row_power = tl.load(exponent + image * n + rows, mask=rows < n, other=0)
    column_power = tl.load(exponent + image * n + columns, mask=columns < n, other=0)
    start = images + image * by_image
    product = tl.zeros((TILE, TILE), tl.float32)
    # Almost always all rows are of a safe size; the test is one for the whole tile.
    odd = tl.max((row_power != 0).to(tl.int32), 0) + tl.max((column_power != 0).to(tl.int32), 0)
    if odd == 0:
        for first in range(0, d, DEPTH):
            here = first + tl.arange(0, DEPTH)
            a = _tile(start, rows, here, n, d, by_row, by_column)
            b = _tile(start, columns, here, n, d, by_row, by_column)
            if WIDEN:
                a, b = a.to(tl.float32), b.to(tl.float32)
            product = tl.dot(a, tl.trans(b), product, input_precision="ieee")
    else:
        for first in range(0, d, DEPTH):
            here = first + tl.arange(0, DEPTH)
            a = _scaled(_tile(start, rows, here, n, d, by_row, by_column), row_power)
            b = _scaled(_tile(start, columns, here, n, d, by_row, by_column), column_power)
            if WIDEN:
                a, b = a.to(tl.float32), b.to(tl.float32)
            product = tl.dot(a, tl.trans(b), product, input_precision="ieee")
    out = gram + image * n * n
    inside = (rows < n)[:, None] & (columns < n)[None, :]
    tl.store(out + rows[:, None] * n + columns[None, :], product, mask=inside)
    tl.store(out + columns[:, None] * n + rows[None, :], tl.trans(product), mask=tl.trans(inside))
