# ruff: noqa: E501 (rows of the card's table)
"""Measure the trained model on test questions, and write its card, curves and logs."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparevlm.pocket.questions import skills
from sparevlm.pocket.scenes import SCENES, SEEDS
from sparevlm.pocket.training.evaluate import accuracy, answer, most_frequent

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
---

# {name}: a LLaVA of {parameters:.1f} million parameters

A `LlavaForConditionalGeneration` that answers short questions about drawn scenes. It ships with
sparevlm so that pruning methods can be tried, tested and compared without a download. It knows
nothing but these scenes and the {words} words of its vocabulary: it is no general assistant.

| part | size |
|---|---|
| vision tower | CLIP, {vision_width} wide, {vision_layers} layers, {image} x {image} pixels, patch {patch}: {tokens} visual tokens, taken after the layer before the last |
| projector | two layers to {width} |
| language model | Llama, {width} wide, {layers} layers, {heads} heads |
| beside it, in `clip/` | the CLIP text tower that the vision tower was trained with |

## Training

Everything is drawn by `sparevlm.pocket.scenes` from a seed. Scenes of training, validation and test
come from disjoint ranges of seeds: {seeds}. {chosen}

1. `python -m sparevlm.pocket.training.tower {natural}--steps {tower_steps}`: {tower_images:,} pictures;
   image-caption contrast, and kind, colour, size and place of the object under every patch.
2. `python -m sparevlm.pocket.training.language {natural}--steps {language_steps}`: {pictures:,} pictures with
   about sixteen questions each; the tower stays frozen. Always with all tokens: the model never saw
   a pruned prompt.

{start} Run on {machine}, {minutes} minutes in all; logs
lie beside this card.{note}

![curves](curves.png)

## Accuracy

`python -m sparevlm.pocket.training.card`, on {machine}: the first {count} test
questions of each kind of scenes, greedy answers that are right word for word, float32. "No
picture": the question alone. "Most frequent": always the commonest answer of the skill.

{tables}
{after}Licence: Apache-2.0, like the code that draws the scenes; pictograms: SIL Open Font License 1.1.
"""
TITLES = {
    "plain": "Plain scenes: three to seven shapes and digits, apart from each other",
    "dense": "Dense scenes: seven to twelve, small digits, shapes partly hidden; two or three skills "
    "a question",
    "pictograms": "Pictograms and signs",
}
UNSEEN = "Nothing was chosen by looking at test questions."
SEEN = """Which skills are
asked for more often was chosen by what an earlier run got right of the first {count} test questions of
each kind; nothing was chosen by the {count} after them."""
AFTER = """Of the next {count} test questions of each kind, with all tokens: {shares}.

"""
FIRST = "Weights start from seed 0."
NATURAL = """`--natural` asks for features that are more like those of towers over photographs: tokens of one
length, but for three of a picture's background that are four times as long, and a share of each for
how its patch looks. Both go on from the weights of `pocket`, by `--start`."""
AGAIN = """
The language model did so by way of an earlier run of the second command ({pictures:,} pictures; its
log is `earlier-language.jsonl`)."""
NEXT = """Both go on from an earlier run of the same commands on plain scenes alone ({tower_images:,} and
{pictures:,} pictures, {minutes} minutes; its logs are the earlier ones), which started from seed 0."""


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def duration(log: list[dict]) -> float:
    """Seconds of a log that was continued, where `seconds` starts again."""
    total, last = 0.0, 0.0
    for line in log:
        if line["seconds"] < last:
            total += last
        last = line["seconds"]
    return total + last


def plot_curves(tower: list[dict], language: list[dict], path: Path) -> None:
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for name in ("kind", "color", "size", "retrieval"):
        left.plot([t["pictures"] for t in tower], [t[name] for t in tower], label=name)
    left.set(title="1: vision tower, training batches", xlabel="pictures", ylabel="share right")
    steps = [t for t in language if "right" in t]
    right.plot(
        [t["step"] for t in steps], [t["right"] for t in steps], label="answer words (train)"
    )
    valid = [t for t in language if "validation" in t]
    for scenes in valid[-1]["validation"]:
        right.plot(
            [t["step"] for t in valid],
            [t["validation"][scenes]["overall"] for t in valid],
            "o-",
            label=f"answers ({scenes}, validation)",
        )
    right.set(title="2: language model", xlabel="steps", ylim=(0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    figure.savefig(path, dpi=90)


def measure(model, processor, count: int, scenes: str) -> dict[str, dict[str, float]]:
    """Accuracy on test questions by skill: with the picture, without, and by the commonest answer."""
    scores = answer(model, processor, "test", count, scenes)
    blind = answer(model, processor, "test", count, scenes, pictures=False)
    return {
        "all": accuracy(scores),
        "no_picture": accuracy(blind),
        "most_frequent": most_frequent(scores),
    }


def score_table(scenes: str, tokens: int, scores: dict[str, dict[str, float]]) -> str:
    seeing, blind, common = scores["all"], scores["no_picture"], scores["most_frequent"]
    rows = [
        f"| {skill} | {seeing[skill]:.1%} | {blind[skill]:.1%} | {common[skill]:.1%} |"
        for skill in skills(scenes)
    ]
    rows.append(f"| **overall** | **{seeing['overall']:.1%}** | {blind['overall']:.1%} | |")
    head = f"| skill | all {tokens} tokens | no picture | most frequent |\n|---|---|---|---|\n"
    return f"{TITLES[scenes]}:\n\n{head}" + "\n".join(rows) + "\n"


def run_facts(run: Path) -> dict[str, int]:
    """Steps, pictures and minutes of both stages, from their logs."""
    tower, language = read(run / "tower.jsonl"), read(run / "language.jsonl")
    steps = [line for line in language if "pictures" in line]
    return {
        "tower_steps": tower[-1]["step"],
        "tower_images": tower[-1]["pictures"],
        "language_steps": steps[-1]["step"],
        "pictures": steps[-1]["pictures"],
        "minutes": round((duration(tower) + duration(language)) / 60),
    }


def story(run: Path, before: Path | None) -> str:
    """What the weights began with."""
    facts = run_facts(before) if before else {}
    if is_natural(run):
        return NATURAL + (AGAIN.format(**facts) if before else "")
    return NEXT.format(**facts) if before else FIRST


def is_natural(run: Path) -> bool:
    """Whether the tower was trained with --natural, which its log tells by a loss of its own."""
    return "lengths" in read(run / "tower.jsonl")[-1]


def write_card(
    run: Path, count: int, machine: str, note: str, scenes: list[str], before: Path | None,
    seen: bool = False,
) -> None:  # fmt: skip
    """Write card, curves, logs and accuracies into RUN/pocket.

    `seen`: something was chosen by the first `count` test questions, so the next are asked too.
    """
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = run / "pocket"
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    scores = {kind: measure(model, processor, count, kind) for kind in scenes}
    unseen = {}
    if seen:
        for kind in scenes:
            unseen[kind] = accuracy(answer(model, processor, "test", count, kind, first=count))
    config = model.config
    text, vision = config.text_config, config.vision_config
    tables = "\n".join(
        score_table(kind, config.image_seq_length, shares) for kind, shares in scores.items()
    )
    shares = ", ".join(f"{kind} {found['overall']:.1%}" for kind, found in unseen.items())
    natural = is_natural(run)
    card = CARD.format(
        **run_facts(run),
        name="pocket-natural" if natural else "pocket",
        natural="--natural " if natural else "",
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        words=text.vocab_size,
        vision_width=vision.hidden_size,
        vision_layers=vision.num_hidden_layers,
        image=vision.image_size,
        patch=vision.patch_size,
        tokens=config.image_seq_length,
        width=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        seeds=", ".join(f"{split} from {first:,}" for split, first in SEEDS.items()),
        start=story(run, before),
        machine=machine,
        note=f" {note}" if note else "",
        count=count,
        tables=tables,
        chosen=SEEN.format(count=count) if seen else UNSEEN,
        after=AFTER.format(count=count, shares=shares) if seen else "",
    )
    (folder / "README.md").write_text(card)
    plot_curves(read(run / "tower.jsonl"), read(run / "language.jsonl"), folder / "curves.png")
    for name in ("tower.jsonl", "language.jsonl"):
        shutil.copy(run / name, folder / name)
        if before and (name == "language.jsonl" or not natural):
            shutil.copy(before / name, folder / f"earlier-{name}")
    result = {"count": count, "scenes": scores} | ({"next": unseen} if seen else {})
    (folder / "accuracy.json").write_text(json.dumps(result, indent=1) + "\n")
    print(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument(
        "--machine", default=f"{torch.get_num_threads()} cores, {platform.machine()}"
    )
    parser.add_argument("--note", default="", help="a sentence about this run")
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    parser.add_argument("--start", type=Path, help="the earlier run that this one began from")
    parser.add_argument(
        "--seen", action="store_true", help="choices looked at test questions: ask the next too"
    )
    options = parser.parse_args()
    write_card(
        options.out, options.count, options.machine, options.note, options.scenes, options.start,
        options.seen,
    )  # fmt: skip


if __name__ == "__main__":
    main()
