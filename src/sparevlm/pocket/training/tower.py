"""Stage 1: the CLIP towers, from image-caption pairs and from labels for every patch.

The contrastive loss alone needs far more pictures than a laptop can draw, so the layer that LLaVA
reads also predicts what lies under each patch.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from sparevlm.pocket.model import clip_config, make_image_processor, make_tokenizer
from sparevlm.pocket.questions import ask, skills
from sparevlm.pocket.scenes import GRID, SEEDS, SIGN, Scene
from sparevlm.pocket.training import common, nature

SHARES = {"plain": 0.2, "dense": 0.35, "pictograms": 0.45}


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A text that fits the picture: some of its things named, or a question about it."""
    if rng.random() < 0.25:
        question = ask(scene, str(rng.choice(skills(scene.scenes))), rng)
        if question is not None:
            return question.text
    chosen = rng.permutation(len(scene.things))[: int(rng.integers(1, len(scene.things) + 1))]
    phrases = []
    for i in chosen:
        thing = scene.things[i]
        size = thing.size if rng.random() < 0.3 else ""
        says = f"that says {thing.text}" if thing.kind == SIGN else ""
        phrases.append(" ".join(f"a {size} {thing.color} {thing.kind} {says}".split()))
    opening = ("", "a picture of ", "a photo of ")[int(rng.integers(3))]
    return opening + " and ".join(phrases)


def neighbour_heads(model: CLIPModel) -> None:
    """Start the heads of the first three layers as looks at neighbouring patches.

    The position table gets sines and cosines of row and column in its first 32 dimensions; a
    rotation of them turns "here" into "one patch to the left", so that a query matrix holding that
    rotation attends there. A network of this size finds local features much sooner so.
    """
    vision = model.vision_model
    width = vision.embeddings.position_embedding.weight.shape[1]
    head = vision.encoder.layers[0].self_attn.head_dim
    waves = 2 * math.pi / torch.logspace(math.log10(2.6), math.log10(2 * GRID), head // 4)
    rows, columns = torch.arange(GRID * GRID) // GRID, torch.arange(GRID * GRID) % GRID
    table = torch.zeros(GRID * GRID, head)
    half = head // 2
    for start, place in ((0, rows), (half, columns)):
        angles = place[:, None] * waves
        table[:, start : start + half : 2] = angles.cos()
        table[:, start + 1 : start + half : 2] = angles.sin()
    offsets = (
        ((0, 1), (0, -1), (1, 0), (-1, 0)),
        ((1, 1), (1, -1), (-1, 1), (-1, -1)),
        ((0, 2), (0, -2), (2, 0), (-2, 0)),
    )
    with torch.no_grad():
        vision.embeddings.position_embedding.weight.normal_(std=0.02)
        vision.embeddings.position_embedding.weight[1:, :head] = table
        vision.embeddings.patch_embedding.weight.normal_(std=0.05)
        vision.embeddings.patch_embedding.weight[:head] = 0
        for layer, places in zip(vision.encoder.layers, offsets, strict=False):
            for i in range(width // head):
                rotation = torch.zeros(head, head)
                for start, shift in zip((0, half), places[i % len(places)], strict=True):
                    for f in range(head // 4):
                        a, at = float(waves[f]) * shift, start + 2 * f
                        rotation[at, at], rotation[at, at + 1] = math.cos(a), -math.sin(a)
                        rotation[at + 1, at], rotation[at + 1, at + 1] = math.sin(a), math.cos(a)
                rows_ = slice(i * head, (i + 1) * head)
                attention = layer.self_attn
                attention.q_proj.weight[rows_] *= 0.1
                attention.k_proj.weight[rows_] *= 0.1
                attention.q_proj.weight[rows_, :head] = 1.7 * rotation
                attention.k_proj.weight[rows_, :head] = 1.7 * torch.eye(head)


class Tower(nn.Module):
    """CLIP with heads that read patch labels off the layer before the last.

    `natural`: its features are asked to be like those of towers over photographs too.
    """

    def __init__(self, config, *, local: bool = True, natural: bool = False):
        super().__init__()
        self.clip = CLIPModel(config)
        self.clip.set_attn_implementation("lean")
        if local:
            neighbour_heads(self.clip)
        width = config.vision_config.hidden_size
        classes = {
            "kind": common.BACKGROUND + 1,
            "color": len(common.PALETTE) + 1,
            "size": len(common.SIZE_NAMES) + 1,
            "middle": 1,
            "offset": 2,
        }
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, n) for name, n in classes.items()})
        self.looks = nn.Linear(width, nature.DETAILS) if natural else None

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, float]]:
        vision = self.clip.vision_model(
            pixel_values=common.pixels(batch["image"]), output_hidden_states=True
        )
        features = vision.hidden_states[-2][:, 1:].float()
        patches = self.norm(features)
        said = {name: head(patches) for name, head in self.heads.items()}
        losses, report = [], {}
        things = batch["kind"] != common.BACKGROUND
        for name in ("kind", "color", "size"):
            loss = F.cross_entropy(
                said[name].flatten(0, 1), batch[name].flatten(), reduction="none"
            )
            weight = torch.where(things, 2.0, 0.5).flatten()
            losses.append((loss * weight).sum() / weight.sum())
            right = (said[name].argmax(-1) == batch[name])[things]
            report[name] = float(right.float().mean())
        middle = said["middle"][..., 0]
        losses.append(
            F.binary_cross_entropy_with_logits(
                middle, batch["middle"], reduction="mean", pos_weight=torch.tensor(4.0)
            )
        )
        report["middle"] = float(((middle > 0) == (batch["middle"] > 0))[things].float().mean())
        losses.append(5 * (said["offset"] - batch["offset"]).abs().mean())
        report["offset"] = float((said["offset"].detach() - batch["offset"])[things].abs().mean())
        if self.looks is not None:
            lengths = nature.length_loss(features, ~things)
            seen = nature.looks(batch["image"])
            looks = (self.looks(patches).float() - seen).square().sum(-1).mean()
            losses += [lengths, looks]
            report |= {"lengths": float(lengths.detach()), "looks": float(looks.detach())}
        image = F.normalize(self.clip.visual_projection(vision.pooler_output).float(), dim=-1)
        text = F.normalize(
            self.clip.get_text_features(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                return_dict=True,
            ).pooler_output.float(),
            dim=-1,
        )
        similarity = self.clip.logit_scale.clamp(max=4.6).exp() * image @ text.T
        target = torch.arange(len(image))
        contrast = F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)
        losses.append(0.25 * contrast)
        report["retrieval"] = float((similarity.argmax(-1) == target).float().mean())
        total = torch.stack(losses).sum()
        return total, report | {"loss": float(total.detach())}


def make_batches(split: str, size: int):
    """A function step -> batch: `size` scenes of the split's seed range, labels and captions."""
    tokenizer = make_tokenizer(clip=True)

    def make(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng((SEEDS[split] + step, 7))
        scenes = common.draw_some(SEEDS[split] + step * size, size, rng, SHARES)
        texts = tokenizer(
            [caption(scene, rng) for scene in scenes],
            padding=True,
            truncation=True,
            max_length=32,
            return_tensors="pt",
        )
        labels = [common.patch_labels(scene) for scene in scenes]
        batch = {k: torch.from_numpy(np.stack([label[k] for label in labels])) for k in labels[0]}
        batch["image"] = torch.from_numpy(np.stack([scene.image for scene in scenes]))
        return batch | {"input_ids": texts.input_ids, "attention_mask": texts.attention_mask}

    return make


def begin_from(tower: Tower, folder: Path) -> None:
    """Take over the weights of an earlier CLIP, whose vocabulary may be another."""
    before = CLIPModel.from_pretrained(folder, dtype=torch.float32)
    weights = before.state_dict()
    table = "text_model.embeddings.token_embedding.weight"
    old_words = AutoTokenizer.from_pretrained(folder).get_vocab()
    now = tower.clip.state_dict()
    words = make_tokenizer(clip=True).get_vocab()
    weights[table] = common.grown(weights[table], now[table].clone(), old_words, words)
    tower.clip.load_state_dict(weights)


def train(
    out: Path,
    steps: int,
    batch: int,
    lr: float,
    stop: int,
    local: bool,
    start: Path | None = None,
    natural: bool = False,
) -> None:
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    tower = Tower(clip_config(width=128), local=local, natural=natural)
    if start:
        begin_from(tower, start)
    make = make_batches("train", batch)
    plan = common.Plan(steps=steps, batch=batch, lr=lr, stop=stop, every=500)
    if common.fit(tower, out, "tower", make, plan):
        tower.clip.set_attn_implementation("sdpa")
        tower.clip.save_pretrained(out / "clip")
        make_tokenizer(clip=True).save_pretrained(out / "clip")
        make_image_processor().save_pretrained(out / "clip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--stop", type=int, default=10**9, help="end early after this step")
    parser.add_argument("--plain-start", action="store_true", help="no neighbour heads")
    parser.add_argument("--start", type=Path, help="the folder clip of an earlier run")
    parser.add_argument("--natural", action="store_true", help="features as over photographs")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    local = not options.plain_start
    train(
        options.out, options.steps, options.batch, options.lr, options.stop, local, options.start,
        options.natural,
    )  # fmt: skip


if __name__ == "__main__":
    main()
