"""`sparevlm ask` on the pocket model with pictures scaled by torchvision and by PIL.

With torchvision installed transformers scales pictures by it, without by PIL, and the two round
differently. For drawn scenes at several sizes: how far apart the pixels are, in levels of 0 to 255,
and how many scenes keep the same tokens and get the same answer.

    make test-torchvision    # once, for the environment
    .venv-torchvision/bin/python -m bench.processors
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sparevlm import SPARE, asking
from sparevlm.hf import load
from sparevlm.pocket.model import STD, make_processor
from sparevlm.pocket.scenes import draw_scene

SCENES = 24
KEEP = 12  # what `ask` keeps
QUESTION = "what color is the star ?"
SIZES = [(112, 112), (60, 60), (97, 131), (224, 224), (448, 448), (640, 480)]


@dataclass(frozen=True)
class Pair:
    """One scene by both: the distance of their pixels, and what was kept and said."""

    levels: torch.Tensor
    kept: list[list[int]]
    answers: list[str]

    @property
    def shared(self) -> int:
        return len({*self.kept[0]} & {*self.kept[1]})


def pairs(size: tuple[int, int]) -> list[Pair]:
    """Scenes of a size through the processor that `load` gives here, and through PIL's."""
    model, ours = load("pocket", device="cpu")
    processors = (ours, make_processor())
    found = []
    with SPARE(KEEP).attach(model, question=QUESTION, tokenizer=ours.tokenizer) as handle:
        for seed in range(SCENES):
            picture = draw_scene(seed).picture().resize(size)
            inputs = [asking.prepare(model, made, [picture], QUESTION) for made in processors]
            said = [
                asking.answer(model, made, given, 8, handle)
                for made, given in zip(processors, inputs, strict=True)
            ]
            here, there = (given["pixel_values"] for given in inputs)
            levels = (here - there).abs() * 255 * STD[0]
            kept = [answer.report[0].indices.tolist() for answer in said]
            found.append(Pair(levels, kept, [answer.text for answer in said]))
    return found


def main() -> None:
    _, processor = load("pocket", device="cpu")
    print(f"{type(processor.image_processor).__name__} beside PIL, {SCENES} scenes, {KEEP} tokens")
    print("size        pixels off  by at most  same tokens  fewest shared  same answers")
    for size in SIZES:
        found = pairs(size)
        off = torch.cat([(pair.levels > 0.5).flatten() for pair in found]).double().mean()
        most = max(float(pair.levels.max()) for pair in found)
        same = sum(pair.kept[0] == pair.kept[1] for pair in found)
        least = min(pair.shared for pair in found)
        answers = sum(pair.answers[0] == pair.answers[1] for pair in found)
        print(
            f"{size[0]:4d} x {size[1]:<4d} {off:10.2%} {most:11.0f} {same:12d} {least:14d} "
            f"{answers:13d}"
        )


if __name__ == "__main__":
    main()
