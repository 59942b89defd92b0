"""In how many pictures float32 keeps the same tokens as float64, by the number kept.

    python -m bench.precision [--pictures 30]

Sets are compared, not orders. Features: those of the pocket model for validation scenes, as they
are, with one token of ten times its length, and rounded to bf16; CDPruner on them; and random rows
whose singular values fall as 1 / i and 1 / i^2, the larger with one long token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sparevlm import load
from sparevlm.pocket.questions import sample
from sparevlm.selection import select

SHARES = (0.06, 0.11, 0.17, 0.25, 0.33, 0.5)  # of the tokens
"""Of the tokens, how many are kept."""


def pocket_features(count: int) -> list[Tensor]:
    """Features [196, 256] of validation scenes of all kinds, float32."""
    model, processor = load("pocket", device="cpu")
    found = []
    for i in range(count):
        scene, _ = sample("validation", i, ("plain", "dense", "pictograms")[i % 3])
        pixels = processor.image_processor(scene.picture(), return_tensors="pt").pixel_values
        with torch.no_grad():
            found += model.model.get_image_features(pixels, return_dict=True).pooler_output
    return found


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


def cases(pictures: int) -> Iterator[tuple[str, list[Tensor], Callable[[Tensor, int], Tensor]]]:
    """Name, features and selection of what is compared."""
    pocket = pocket_features(pictures)
    yield "pocket", pocket, spare
    yield "pocket, one token ten times as long", [stretched(x) for x in pocket], spare
    yield "pocket in bf16", [x.bfloat16().float() for x in pocket], spare
    yield "pocket, CDPruner", pocket, cdpruner
    few = max(pictures // 3, 1)
    yield "576 x 1024, 1 / i", [falling(576, 1024, 1, i) for i in range(few)], spare
    yield "576 x 1024, 1 / i^2", [falling(576, 1024, 2, i) for i in range(few)], spare
    long = [stretched(falling(2880, 1024, 1, i)) for i in range(max(pictures // 10, 1))]
    yield "2880 x 1024, 1 / i, one ten times as long", long, spare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=30)
    pictures = parser.parse_args().pictures
    print("| features |" + "".join(f" {share:.0%} |" for share in SHARES))
    print("| --- |" + " ---: |" * len(SHARES))
    for name, rows, choose in cases(pictures):
        ks = [round(share * len(rows[0])) for share in SHARES]
        shares = agreement(rows, ks, choose)
        print(f"| {name} |" + "".join(f" {100 * share:.0f} % |" for share in shares), flush=True)


if __name__ == "__main__":
    main()
