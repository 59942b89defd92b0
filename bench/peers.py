"""Our methods beside their authors' published loops: time of both, and whether they pick the same.

    python -m bench.peers [--pictures P] [--repeats R]
    python -m bench.peers --agreement [--pictures P]

fp32, one core, interleaved; random features, 4096 wide, as are encoder states. The loops are
`bench.published_loops`. The second form times nothing: in how many of so many pictures of random
shapes both pick the same, where theirs work in fp32, in bf16 and in fp16 (ours decide in fp32).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench import published_loops as published
from bench.clock import milliseconds
from sparevlm.encoder import Projector
from sparevlm.methods import get_method
from sparevlm.tokens import Query, VisualTokens

SHAPES = [(576, 4096, 64), (2880, 4096, 320)]
TARGETS = {("divprune", 576): 0.6}  # else 0.7
WORDS = 12


@dataclass
class Picture:
    """Random tokens, and what the methods ask for besides."""

    tokens: VisualTokens
    theirs: dict[str, Callable[[int], Tensor]]


def make(n: int, d: int, seed: int, dtype: torch.dtype = torch.float32) -> Picture:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw).to(dtype)

    x, states, texts = normal(n, d), normal(n, d), normal(WORDS, d)
    attention = torch.randn(1, n, generator=draw).softmax(1)
    seen = VisualTokens(
        x, query=Query(x, texts), encoder_attention=attention,
        projector=Projector(states, nn.Identity(), states[0]),
    )  # fmt: skip
    against = -(normalize(x.float(), dim=-1) @ normalize(texts.float(), dim=-1).T).mean(-1)
    spread = against.max() - against.min()
    relevance = (against - against.min() + 1e-6) / spread
    theirs: dict[str, Callable[[int], Tensor]] = {
        "divprune": lambda k: published.divprune(x, k),
        "cdpruner": lambda k: published.cdpruner(x, relevance, k),
        "vispruner": lambda k: published.vispruner(states, attention[0], k),
        "scope": lambda k: published.scope(states, attention[0], k),
        "mmtok": lambda k: published.mmtok(x, states, texts, k),
    }
    return Picture(seen, theirs)


def row(name: str, n: int, d: int, k: int, pictures: int, repeats: int) -> str:
    method = get_method(name, k)
    made = [make(n, d, seed) for seed in range(pictures)]
    alike = 0
    for picture in made:
        ours, theirs = method.reduce(picture.tokens), picture.theirs[name](k)
        alike += torch.equal(ours.indices, theirs.sort().values)
    pairs = [
        (
            milliseconds(lambda picture=picture: picture.theirs[name](k)),
            milliseconds(lambda picture=picture: method.reduce(picture.tokens)),
        )
        for picture in islice(cycle(made), repeats)  # some are harder than others
    ]
    ratios = [here / there for there, here in pairs]
    there, here = (statistics.median(part) for part in zip(*pairs, strict=True))
    ratio, target = statistics.median(ratios), TARGETS.get((name, n), 0.7)
    return (
        f"{name:<10} {n:>5} x {d}, {k:<4}{there:>10.1f} {here:>9.1f} {ratio:>7.2f} "
        f"({min(ratios):.2f} .. {max(ratios):.2f})   {target:.1f} "
        f"{'met' if ratio <= target else 'NOT MET':<8} {alike} of {pictures} pictures alike"
    )


def agreement(name: str, pictures: int) -> str:
    counts = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        draw = torch.Generator().manual_seed(0)
        alike = 0
        for seed in range(pictures):
            n, d = (int(torch.randint(60, most, (1,), generator=draw)) for most in (600, 1100))
            k = int(torch.randint(8, min(n, d) // 2, (1,), generator=draw))
            picture = make(n, d, seed, dtype)
            ours, theirs = get_method(name, k).reduce(picture.tokens), picture.theirs[name](k)
            alike += torch.equal(ours.indices, theirs.sort().values)
        counts.append(f"{100 * alike / pictures:>6.0f} %")
    return f"{name:<10}" + "".join(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods to time")
    parser.add_argument("--pictures", type=int, help="compared, and timed in turn (3; 50)")
    parser.add_argument("--agreement", action="store_true", help="compare picks, and time nothing")
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = asked.only or ["divprune", "cdpruner", "vispruner", "scope", "mmtok"]
    if asked.agreement:
        print("method      fp32    bf16    fp16")
        with torch.no_grad():
            for name in names:
                print(agreement(name, asked.pictures or 50), flush=True)
        return
    print("method     tokens, kept     theirs ms   here ms   ratio (min .. max)   target")
    with torch.no_grad():
        for n, d, k in SHAPES:
            repeats = asked.repeats if n < 1000 else max(3, asked.repeats // 3)
            for name in names:
                print(row(name, n, d, k, asked.pictures or 3, repeats), flush=True)


if __name__ == "__main__":
    main()
