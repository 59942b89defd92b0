"""Time of every method's selection beside the product X @ X.T, fp32, on one core.

    python -m bench.methods [--only NAME ...] [--json]

Method and product are timed in turn. Attention, keys and encoder states are given, as the encoder
has them anyway; the projector is that of LLaVA-1.5 with random weights, and so are the queries and
keys of the language model's first layer. `downsample` is missing: it
runs the encoder again and selects nothing.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass

import torch
from torch import nn

from bench.clock import milliseconds
from sparevlm.encoder import FirstLayer, Projector
from sparevlm.methods import get_method, list_methods
from sparevlm.tokens import Query, VisualTokens

SHAPES = [(576, 64, (24, 24)), (2880, 160, (48, 60))]  # LLaVA-1.5, LLaVA-NeXT
WIDTH, STATES, HEADS, SHARED, WORDS = 4096, 1024, 16, 768, 12
PAIRS = 5
SECONDS = 20.0  # a method that took longer is not timed again
LIMIT = 3.0  # times the product; beyond, the algorithm itself must be the reason
FORCED = {
    "agilepruner": "needs singular values of encoder states, 1,024 wide",
    "greedy-css": "rewrites an N x N matrix of residuals at every step, in fp64",
    "hawk": "makes keys of all tokens, 4,096 wide, by a matrix as large as the projector's",
    "k-center": "takes differences of all tokens to each pick: products would be wrong for twins",
    "leverage": "needs the singular vectors of X: an eigendecomposition, O(N^3), in fp64",
    "prunesid": "needs singular vectors of encoder states, 1,024 wide",
    "two-stage": "needs the singular vectors of X: an eigendecomposition, O(N^3), in fp64",
    "volume": "needs all eigenvectors of X X^T, O(N^3), in fp64",
    "zoo-prune": "runs the projector 128 times over all tokens",
}


@dataclass
class Row:
    """Medians in milliseconds; `ratio` is to the product."""

    name: str
    n: int
    k: int
    product_ms: float
    method_ms: float
    ratio: float
    runs: int


def make_tokens(n: int, grid: tuple[int, int]) -> VisualTokens:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        projector = nn.Sequential(nn.Linear(STATES, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        queries, keys = nn.Linear(SHARED, WIDTH), nn.Linear(WIDTH, WIDTH)
    for part in (projector, queries, keys):
        part.requires_grad_(False)
    states = normal(n, STATES)
    return VisualTokens(
        projector(states),
        grid,
        query=Query(normal(n, SHARED), normal(WORDS, SHARED)),
        encoder_attention=tuple(normal(HEADS, n).softmax(1) for _ in range(2)),
        encoder_keys=normal(n, HEADS, STATES // HEADS),
        projector=Projector(states, projector, normal(STATES)),
        first_layer=FirstLayer(
            lambda words: queries(words).unflatten(1, (HEADS, -1)),
            lambda rows: keys(rows).unflatten(1, (HEADS, -1)),
        ),
    )


def measure(name: str, k: int, tokens: VisualTokens) -> Row:
    method, x = get_method(name, k), tokens.features
    first = milliseconds(lambda: method.reduce(tokens))  # warm-up, and a look at how long it takes
    milliseconds(lambda: x @ x.T)
    pairs = [
        (milliseconds(lambda: x @ x.T), milliseconds(lambda: method.reduce(tokens)))
        for _ in range(1 if first > SECONDS * 1e3 / PAIRS else PAIRS)
    ]
    product = statistics.median(pair[0] for pair in pairs)
    spent = statistics.median(pair[1] for pair in pairs)
    return Row(name, len(x), k, product, spent, spent / product, len(pairs))


def table(rows: list[Row]) -> str:
    lines = ["method             tokens, kept   product ms   method ms    ratio"]
    for row in rows:
        over = row.ratio > LIMIT
        why = f"  {FORCED.get(row.name, 'ABOVE THE LIMIT')}" if over else ""
        lines.append(
            f"{row.name:<18} {row.n:>6}, {row.k:<5} {row.product_ms:>10.2f} {row.method_ms:>11.2f} "
            f"{row.ratio:>8.2f}{why}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods to time")
    parser.add_argument("--json", action="store_true", help="print one JSON list, not a table")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = asked.only or [name for name in list_methods() if name != "downsample"]
    rows = []
    with torch.no_grad():
        for n, k, grid in SHAPES:
            tokens = make_tokens(n, grid)
            rows += [measure(name, k, tokens) for name in names]
    print(json.dumps([asdict(row) for row in rows]) if asked.json else table(rows))


if __name__ == "__main__":
    main()
