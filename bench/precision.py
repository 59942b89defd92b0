"""In how many pictures float32 keeps the same tokens as float64, by the number kept.

    python -m bench.precision [--pictures 30] [--real]

Sets are compared, not orders. Features: those of the pocket model for validation scenes, as they
are, with one token of ten times its length, and rounded to bf16; CDPruner on them; and random rows
whose singular values fall as 1 / i and 1 / i^2, the larger with one long token. With --real also
those of a trained ViT over photographs, which the study of real features downloads.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from bench.studies.real.fetch import fetch
from bench.studies.real.halves import halves
from bench.studies.real.rows import pocket
from sparevlm.selection import select

SHARES = (0.06, 0.11, 0.17, 0.25, 0.33, 0.5)  # of the tokens
"""Of the tokens, how many are kept."""


def falling(n: int, d: int, power: float, seed: int) -> Tensor:
    """Rows [n, d] whose singular values fall as i^-power, float32."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(n, min(n, d), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(d, min(n, d), generator=generator, dtype=torch.float64)).Q
    sizes = torch.arange(1, min(n, d) + 1, dtype=torch.float64) ** -power
    return ((left * sizes) @ right.T).float()


def stretched(rows: Tensor, token: int = 7, times: float = 10) -> Tensor:
    """The same with one token of `times` its length."""
    rows = rows.clone()
    rows[token] *= times
    return rows


def cdpruner(rows: Tensor, k: int) -> Tensor:
    """What CDPruner keeps; relevance is drawn."""
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(0))
    lengths = torch.linalg.vector_norm(rows.double(), dim=1)
    return select(rows, k, weights=weights / lengths).order


def spare(rows: Tensor, k: int) -> Tensor:
    """What SPARE keeps without guidance."""
    return select(rows, k).order


def agreement(
    pictures: list[Tensor], ks: list[int], choose: Callable[[Tensor, int], Tensor] = spare
) -> list[float]:
    """Share of pictures of which as float32 and as float64 the same k tokens are kept, by k."""
    same = [0] * len(ks)
    for rows in pictures:
        for i, k in enumerate(ks):
            same[i] += set(choose(rows, k).tolist()) == set(choose(rows.double(), k).tolist())
    return [count / len(pictures) for count in same]


def cases(
    pictures: int, real: bool
) -> Iterator[tuple[str, list[Tensor], Callable[[Tensor, int], Tensor]]]:
    """Name, features and selection of what is compared."""
    scenes = pocket(pictures).features
    yield "pocket", scenes, spare
    yield "pocket, one token ten times as long", [stretched(x) for x in scenes], spare
    yield "pocket in bf16", [x.bfloat16().float() for x in scenes], spare
    yield "pocket, CDPruner", scenes, cdpruner
    few = max(pictures // 3, 1)
    yield "576 x 1024, 1 / i", [falling(576, 1024, 1, i) for i in range(few)], spare
    yield "576 x 1024, 1 / i^2", [falling(576, 1024, 2, i) for i in range(few)], spare
    long = [stretched(falling(2880, 1024, 1, i)) for i in range(max(pictures // 10, 1))]
    yield "2880 x 1024, 1 / i, one ten times as long", long, spare
    if real:
        fetched = fetch()
        first, _ = halves(len(fetched.last.features))
        for rows in (fetched.last.of(first), fetched.before.of(first)):
            yield f"photographs, {rows.title}", rows.features, spare
            stretching = [stretched(x) for x in rows.features]
            yield f"photographs, {rows.title}, one ten times as long", stretching, spare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=30)
    parser.add_argument("--real", action="store_true", help="photographs too; needs the network")
    options = parser.parse_args()
    print("| features |" + "".join(f" {share:.0%} |" for share in SHARES))
    print("| --- |" + " ---: |" * len(SHARES))
    for name, rows, choose in cases(options.pictures, options.real):
        ks = [round(share * len(rows[0])) for share in SHARES]
        shares = agreement(rows, ks, choose)
        print(f"| {name} |" + "".join(f" {100 * share:.0f} % |" for share in shares), flush=True)


if __name__ == "__main__":
    main()
