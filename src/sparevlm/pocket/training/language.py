"""Stage 2: projector and language model on question-answer pairs; the tower stays frozen.

About sixteen questions share one picture. In most batches each question sees the picture and itself
alone (a block mask), exactly as when it is asked by itself; in the others they follow each other as
turns of one conversation.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, LlavaForConditionalGeneration

from sparevlm.pocket.model import llava_config, make_processor, make_tokenizer
from sparevlm.pocket.questions import SKILLS, ask, skills
from sparevlm.pocket.scenes import COLORS, GRID, SCENES, SEEDS, SIZES, Scene
from sparevlm.pocket.training import common, nature
from sparevlm.pocket.training.evaluate import accuracy, answer

SHARES = {"plain": 0.3, "dense": 0.35, "pictograms": 0.35}
SKILL_WEIGHTS = {  # skills that take longer are asked for more often
    "count": 2.5,
    "relation": 2.0,
    "sum": 1.3,
    "nearest": 4.0,
    "size": 1.2,
    "position": 1.2,
    "color+nearest": 2.5,
    "reading+nearest": 3.0,
    "count+relation": 5.0,
    "count+color+relation": 3.0,
    "reading+color": 1.5,
    "sum+position": 2.5,
    "recognition+nearest": 2.5,
    "knowledge+count+relation": 2.5,
    "reading+recognition": 1.5,
    "reading+count+sum": 3.0,
}
PLAIN_IN_DENSE = 0.3  # share of dense scenes that plain questions are asked about
NOTHING = "nothing"
WORD_GROUPS = {
    "kind": tuple(dict.fromkeys(look.split()[-1] for look in (*common.LOOKS, NOTHING))),
    "color": (*COLORS, NOTHING),
    "size": (*SIZES, NOTHING),
    "vertical": ("top", "bottom"),
    "horizontal": ("left", "right"),
}
KIND_WORDS = tuple(WORD_GROUPS["kind"].index(look.split()[-1]) for look in (*common.LOOKS, NOTHING))
TEXT_TOKENS = 208  # room for about sixteen questions and answers after one picture


class Conversation:
    """Builds rows of token ids, labels, positions and blocks."""

    def __init__(self) -> None:
        tokenizer = make_tokenizer()
        self.ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
        image = tokenizer.convert_tokens_to_ids("<image>")
        self.prefix = [tokenizer.bos_token_id, *self.ids("user :"), *[image] * GRID**2]
        self.between, self.before_answer = self.ids("user :"), self.ids("assistant :")
        self.end, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    def row(self, scene: Scene, rng: np.random.Generator, turns: bool) -> tuple[list, ...]:
        ids, labels = list(self.prefix), [-100] * len(self.prefix)
        start = len(ids)
        places, blocks = list(range(start)), [0] * start
        plain = scene.scenes == "dense" and rng.random() < PLAIN_IN_DENSE
        asked_for = SKILLS if plain else skills(scene.scenes)
        weights = np.array([SKILL_WEIGHTS.get(skill, 1.0) for skill in asked_for])
        block = failed = 0
        while failed < 50:
            skill = asked_for[int(rng.choice(len(asked_for), p=weights / weights.sum()))]
            question = ask(scene, skill, rng)
            if question is None:
                failed += 1
                continue
            opening = self.between if turns and block else []
            asked = [*opening, *self.ids(question.text), *self.before_answer]
            told = [*self.ids(question.answer), self.end]
            if len(ids) + len(asked) + len(told) > start + TEXT_TOKENS:
                break
            block += 1
            first = len(ids) if turns else start
            ids += asked + told
            labels += [-100] * len(asked) + told
            places += range(first, first + len(asked) + len(told))
            blocks += [0 if turns else block] * (len(asked) + len(told))
        fill = start + TEXT_TOKENS - len(ids)
        return (
            ids + [self.pad] * fill,
            labels + [-100] * fill,
            places + [0] * fill,
            blocks + [-1] * fill,
        )


def make_batches(split: str, size: int):
    """A function step -> batch: `size` scenes of the split, each with its questions and labels."""
    conversation = Conversation()

    def make(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((SEEDS[split] + step, 11))
        # stage 1 saw the first scenes of the range; these lie far beyond them
        first = SEEDS[split] + 10**11 + step * size
        scenes = common.draw_some(first, size, rng, SHARES)
        turns = step % 5 == 4
        rows = [conversation.row(scene, rng, turns) for scene in scenes]
        names = ("input_ids", "labels", "position_ids", "blocks")
        batch = {n: torch.tensor(v) for n, v in zip(names, zip(*rows, strict=True), strict=True)}
        labels = [common.patch_labels(scene) for scene in scenes]
        batch |= {k: torch.from_numpy(np.stack([label[k] for label in labels])) for k in labels[0]}
        batch["image"] = torch.from_numpy(np.stack([scene.image for scene in scenes]))
        return batch

    return make


def block_mask(blocks: torch.Tensor) -> torch.Tensor:
    """Additive bf16 mask [B, 1, L, L]: causal; a block sees the prefix (block 0) and itself."""
    seen = (blocks[:, None, :] == 0) | (blocks[:, None, :] == blocks[:, :, None])
    mask = torch.where(seen.tril(), 0.0, -1e4).to(torch.bfloat16)
    return mask[:, None]


def waves(places: torch.Tensor) -> torch.Tensor:
    """Places [..., 2] in image widths as cosines and sines [..., 32] of plane waves.

    Products of two such vectors tell how far apart two places are, in one step of attention.
    """
    angles = torch.arange(4) * math.pi / 4
    directions = torch.stack([angles.cos(), angles.sin()])  # [2, 4]
    frequencies = 2 * math.pi / torch.tensor([2.0, 1.0, 0.5, 0.25])
    phases = ((places @ directions)[..., None] * frequencies).flatten(-2)
    return torch.cat([phases.cos(), phases.sin()], -1)


class Pocket(nn.Module):
    """LLaVA with the two losses of stage 2: answers, and words for what each patch shows.

    `natural`: its features are asked to be like those of towers over photographs too.
    """

    def __init__(self, clip: CLIPModel, width: int, layers: int, *, natural: bool = False):
        super().__init__()
        self.llava = LlavaForConditionalGeneration(
            llava_config(clip.config.vision_config, width, layers)
        )
        self.llava.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
        self.llava.model.vision_tower.requires_grad_(False)
        self.llava.set_attn_implementation("lean")
        self.geometry = nn.Linear(width, 3)
        self.waves = nn.Linear(width, 32)
        self.looks = nature.Looks(width) if natural else None
        self.kind_words = torch.tensor(KIND_WORDS)
        ids = make_tokenizer().convert_tokens_to_ids
        self.groups = {name: torch.tensor(ids(list(w))) for name, w in WORD_GROUPS.items()}

    def align(self, patches: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Each projected patch points to the words for what it shows, group by group."""
        words = self.llava.get_input_embeddings().weight
        targets = {
            "kind": self.kind_words[batch["kind"]],
            "color": batch["color"],
            "size": batch["size"],
            "vertical": (batch["offset"][..., 1] > 0.5).long(),
            "horizontal": (batch["offset"][..., 0] > 0.5).long(),
        }
        weight = torch.where(batch["kind"] == common.BACKGROUND, 0.3, 1.0).flatten()
        direction = F.normalize(patches.float(), dim=-1)
        losses = []
        for name, target in targets.items():
            group = F.normalize(words[self.groups[name]].float(), dim=-1)
            loss = F.cross_entropy(
                10 * (direction @ group.T).flatten(0, 1), target.flatten(), reduction="none"
            )
            losses.append((loss * weight).sum() / weight.sum())
        said = self.geometry(patches.float())
        losses.append(2 * (said[..., :2] - batch["offset"]).abs().mean())
        losses.append(F.binary_cross_entropy_with_logits(said[..., 2], batch["middle"]))
        losses.append(4 * F.mse_loss(self.waves(patches.float()), waves(batch["offset"])))
        return torch.stack(losses).sum()

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        model = self.llava.model
        with torch.no_grad():
            seen = model.vision_tower(common.pixels(batch["image"]), output_hidden_states=True)
        patches = model.multi_modal_projector(seen.hidden_states[-2][:, 1:])
        embeddings = self.llava.get_input_embeddings()(batch["input_ids"]).to(patches.dtype)
        places = batch["input_ids"] == self.llava.config.image_token_id
        embeddings = embeddings.masked_scatter(places[..., None], patches)
        hidden = model.language_model(
            inputs_embeds=embeddings,
            attention_mask=block_mask(batch["blocks"]),
            position_ids=batch["position_ids"],
            use_cache=False,
        ).last_hidden_state
        answered = batch["labels"][:, 1:] != -100
        logits = self.llava.lm_head(hidden[:, :-1][answered]).float()
        target = batch["labels"][:, 1:][answered]
        loss = F.cross_entropy(logits, target)
        align = self.align(patches, batch)
        parts = {"answer": loss, "align": 0.3 * align}
        if self.looks is not None:
            background = batch["kind"] == common.BACKGROUND
            parts["lengths"] = nature.length_loss(patches.float(), background)
            parts["looks"] = self.looks(patches.float(), nature.looks(batch["image"]))
        real = target != self.llava.config.eos_token_id
        right = (logits.argmax(-1) == target)[real].float().mean()
        report = {name: float(part.detach()) for name, part in parts.items()}
        report |= {"align": float(align.detach()), "right": float(right)}
        return torch.stack(list(parts.values())).sum(), report


def begin_from(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Take over projector and language model of an earlier run, with words it did not know."""
    before = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    weights = {k: v for k, v in before.state_dict().items() if "vision_tower" not in k}
    old_words = AutoTokenizer.from_pretrained(folder).get_vocab()
    words = make_tokenizer().get_vocab()
    now = model.state_dict()
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = common.grown(weights[name], now[name].clone(), old_words, words)
    model.load_state_dict(weights, strict=False)


def validate(model: LlavaForConditionalGeneration, count: int) -> dict[str, dict[str, float]]:
    processor = make_processor()
    return {
        scenes: accuracy(answer(model, processor, "validation", count, scenes)) for scenes in SCENES
    }


def train(
    out: Path,
    steps: int,
    batch: int,
    lr: float,
    width: int,
    layers: int,
    stop: int,
    questions: int = 300,
    start: Path | None = None,
    natural: bool = False,
) -> None:
    torch.manual_seed(0)
    pocket = Pocket(CLIPModel.from_pretrained(out / "clip"), width, layers, natural=natural)
    if start:
        begin_from(pocket.llava, start)
    make = make_batches("train", batch)
    plan = common.Plan(steps=steps, batch=batch, lr=lr, stop=stop, every=1000)

    def checked(step: int, log: common.Log) -> None:
        log(step=step, validation=validate(pocket.llava, questions))

    if common.fit(pocket, out, "language", make, plan, checked):
        export(pocket.llava, out)


def export(model: LlavaForConditionalGeneration, out: Path) -> None:
    """Write `pocket/`: fp16 safetensors with the key names LLaVA checkpoints use, and the CLIP."""
    folder = out / "pocket"
    model.set_attn_implementation("sdpa")
    model.half().save_pretrained(folder)
    classic_names(folder / "model.safetensors")
    make_processor().save_pretrained(folder)
    CLIPModel.from_pretrained(out / "clip").half().save_pretrained(folder / "clip")
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "processor_config.json",
        "preprocessor_config.json",
    ):
        if (out / "clip" / name).exists():
            shutil.copy(out / "clip" / name, folder / "clip" / name)


def classic_names(path: Path) -> None:
    """Name the tower's weights as LLaVA checkpoints do; vLLM expects that."""
    old, new = "vision_tower.", "vision_tower.vision_model."
    weights = {
        name if name.startswith(new) else name.replace(old, new, 1): value
        for name, value in load_file(path).items()
    }
    save_file(weights, path, metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--steps", type=int, default=11000)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--stop", type=int, default=10**9, help="end early after this step")
    parser.add_argument("--start", type=Path, help="the folder pocket of an earlier run")
    parser.add_argument("--natural", action="store_true", help="features as over photographs")
    parser.add_argument("--threads", type=int, default=2)
    options = vars(parser.parse_args())
    torch.set_num_threads(options.pop("threads"))
    train(**options)


if __name__ == "__main__":
    main()
