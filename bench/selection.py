"""Time and memory of select(X, k) against the product X @ X.T alone, fp32, on one core.

    python -m bench.selection [--json]
    python -m bench.selection --against CHECKOUT

The second form compares batches with the `select` of another checkout instead, interleaved.

Where X is too long for an N x N matrix, against k passes over X (one product X @ x for each kept
token) instead, which is what the products alone cost a selection that fetches them singly.

The two are timed in turn, so that what else the machine does disturbs both alike; medians are
compared. Memory is what tensors hold at once besides the features, as seen between operations;
buffers that the matrix library keeps for itself are not in it.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench import older
from bench.clock import milliseconds
from sparevlm.selection import select
from sparevlm.selection.compiled import compiled
from sparevlm.selection.products import host_way
from sparevlm.speed.memory import LiveBytes

# tokens, features, kept, and how many times the product (or the passes) the selection may take
SHAPES = [
    (576, 4096, 64, 1.3),  # LLaVA-1.5
    (2880, 4096, 160, 0.9),  # LLaVA-NeXT
    (196, 256, 12, None),  # the pocket model
    (16384, 4096, 1024, 1.5),  # 64 frames of a video
]
LONG = 8192  # tokens from which on passes are the measure
PAIRS, LONG_PAIRS = 9, 3


@dataclass
class Row:
    """Medians over pairs; `low` and `high` are the least and largest ratio of a pair."""

    n: int
    d: int
    k: int
    against: str
    product_ms: float
    select_ms: float
    ratio: float
    low: float
    high: float
    target: float | None
    met: bool | None
    memory_mb: float
    products: str


def measure(n: int, d: int, k: int, target: float | None) -> Row:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    long = n >= LONG

    def product() -> object:
        return [x @ row for row in x[:k]] if long else x @ x.T

    def selection() -> object:
        return select(x, k)

    product(), selection()  # warm-up
    count = LONG_PAIRS if long else PAIRS
    pairs = [(milliseconds(product), milliseconds(selection)) for _ in range(count)]
    with LiveBytes(x) as live:
        selection()
    product_ms = statistics.median(first for first, _ in pairs)
    select_ms = statistics.median(second for _, second in pairs)
    ratio = select_ms / product_ms
    ratios = [second / first for first, second in pairs]
    return Row(
        n=n,
        d=d,
        k=k,
        against="passes" if long else "product",
        product_ms=product_ms,
        select_ms=select_ms,
        ratio=ratio,
        low=min(ratios),
        high=max(ratios),
        target=target,
        met=None if target is None else ratio <= target,
        memory_mb=live.peak / 1e6,
        products=host_way(n, d, k, x.dtype, compiled=compiled()),
    )


def table(rows: list[Row]) -> str:
    lines = [
        "tokens x features, kept   against         ms  select ms  ratio  (min .. max)   target"
        "           extra MB"
    ]
    for row in rows:
        shape = f"{row.n} x {row.d}, {row.k}"
        spread = f"({row.low:.2f} .. {row.high:.2f})"
        target = "none"
        if row.target is not None:
            target = f"<= {row.target} {'met' if row.met else 'NOT MET'}"
        lines.append(
            f"{shape:<25} {row.against:<8} {row.product_ms:>9.2f} {row.select_ms:>10.2f} "
            f"{row.ratio:>6.2f}  "
            f"{spread:<14} {target:<14} {row.memory_mb:>10.2f}  {row.products}"
        )
    lines.append("Extra memory is of the order N k, and N (N + k) with the Gram matrix.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--json", action="store_true", help="print one JSON list instead of a table"
    )
    parser.add_argument("--against", type=Path, help="another checkout of sparevlm")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.against is not None:
        print(older.table(select, older.select_of(asked.against)))
        return
    rows = [measure(*shape) for shape in SHAPES]
    print(json.dumps([asdict(row) for row in rows], indent=2) if asked.json else table(rows))


if __name__ == "__main__":
    main()
