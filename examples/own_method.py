"""Write a method, and compare it with others on drawn questions.

python examples/own_method.py      takes half a minute; writes out/own_method/
"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm import PickingMethod, Reduction, VisualTokens, load
from sparevlm.evaluation import bench, pocket_items


@dataclass(frozen=True)
class Edges(PickingMethod):
    """Keep the tokens that differ most from the mean of their four neighbours."""

    name: ClassVar[str] = "edges"
    paper: ClassVar[str] = "an example"

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        if tokens.grid is None:
            raise ValueError("edges needs a grid of patches: use a model that has one")
        rows = tokens.features.float().reshape(*tokens.grid, -1)
        padded = torch.nn.functional.pad(rows.movedim(-1, 0), (1, 1, 1, 1), mode="replicate")
        padded = padded.movedim(0, -1)
        beside = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
        contrast = (rows - beside / 4).norm(dim=-1).flatten()
        order = contrast.argsort(descending=True, stable=True)  # ties to the lowest index
        return Reduction.picked(order[:k], scores=contrast)


model, processor = load("pocket")
found = bench(
    model,
    processor,
    pocket_items("validation", 30),
    "out/own_method",
    methods=["edges", "spare"],
    keep=[16],
    seeds=1,
)
for row in found["settings"]:
    print(f"{row['method'] or row['key']:14} {row['accuracy']:6.1%}")
print("all of it: out/own_method/report.html")
