"""Training steps of trl with LoRA on a pruned model: a batch equals its rows, one by one."""

from __future__ import annotations

import datasets
import pytest
import torch
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from sparevlm.methods import SPARE, FastV, Staged
from sparevlm.pocket.scenes import draw_scene
from tests.training.common import gradients, same_gradients, tiny, with_lora

METHODS = [
    SPARE(10, guidance="none"),
    FastV(0.5, layer=1, average=False),
    Staged(SPARE(20, guidance="none"), FastV(0.5, layer=1, average=False)),
]
ASKED = [
    ("USER: <image>\nwhat color is the star ? ASSISTANT:", " red star", 1),
    ("USER: <image>\n<image>\nis it red ? ASSISTANT:", " the circle is left of it", 2),
    ("USER: <image>\nhow many ? ASSISTANT:", " no", 1),
]
ROWS = [
    {"prompt": prompt, "completion": answer,
     "images": [draw_scene(10 * i + j).picture() for j in range(count)]}
    for i, (prompt, answer, count) in enumerate(ASKED)
]  # fmt: skip
QUIET = {
    "per_device_train_batch_size": 3, "max_steps": 1, "report_to": [], "save_strategy": "no",
    "disable_tqdm": True, "use_cpu": True, "bf16": False, "learning_rate": 1e-2, "logging_steps": 1,
    "gradient_checkpointing": False, "remove_unused_columns": False,
}  # fmt: skip


def sft(setup, tmp_path, **more):
    args = SFTConfig(str(tmp_path), max_length=None, **QUIET | more)
    return SFTTrainer(
        model=setup.model, args=args, train_dataset=datasets.Dataset.from_list(ROWS),
        processing_class=setup.processor,
    )  # fmt: skip


def lora(setup):
    setup.model = with_lora(setup.model)
    return setup


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_sft(tmp_path, method):
    setup = lora(tiny())
    trainer = sft(setup, tmp_path)
    batch = trainer.data_collator(ROWS)
    total = int((batch["labels"] != -100).sum())
    assert 5 < total < batch["labels"].numel()
    model = trainer.model.train()
    with method(model):
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=total)
        loss.backward()
        found, alone = gradients(model), 0.0
        for row in ROWS:
            one = trainer.compute_loss(
                model, trainer.data_collator([row]), num_items_in_batch=total
            )
            one.backward()
            alone += float(one.detach())
    assert float(loss.detach()) == pytest.approx(alone, rel=1e-4)
    same_gradients(found, gradients(model))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_step_of_sft(tmp_path, method, checkpointing):
    setup = lora(tiny())
    before = {n: p.detach().clone() for n, p in setup.model.named_parameters() if p.requires_grad}
    trainer = sft(setup, tmp_path, gradient_checkpointing=checkpointing)
    with method(trainer.model) as handle:
        trainer.train()
        assert len(handle.report) == 4
    after = {n: p for n, p in setup.model.named_parameters() if n in before}
    own = [n for n in before if "language_model" in n]
    assert own and not any(torch.equal(after[n], before[n]) for n in own)


def grpo(setup, tmp_path):
    args = GRPOConfig(str(tmp_path), num_generations=3, max_completion_length=4, **QUIET)
    rows = [
        {"prompt": [{"role": "user", "content": "what color is it ?"}], "images": row["images"]}
        for row in ROWS
    ]
    return GRPOTrainer(
        model=setup.model, args=args, train_dataset=datasets.Dataset.from_list(rows),
        processing_class=setup.processor,
        reward_funcs=lambda completions, **more: [float(len(c[0]["content"])) for c in completions],
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_grpo(tmp_path, method):
    """Prompts padded on the left, completions on the right."""
    setup = lora(tiny())
    trainer = grpo(setup, tmp_path)
    told = [setup.ids(answer)[0] for _, answer, _ in ASKED]
    longest = max(map(len, told))
    prompts = setup.inputs(*(prompt for prompt, _, _ in ASKED))
    ids = torch.full((3, longest), setup.processor.tokenizer.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, words in enumerate(told):
        ids[row, : len(words)], mask[row, : len(words)] = words, 1
    ids, mask = (torch.cat(pair, 1) for pair in (
        (prompts["input_ids"], ids), (prompts["attention_mask"], mask)))  # fmt: skip
    model = trainer.model.train()
    counts = [count for _, _, count in ASKED]
    weights = torch.rand(
        3, longest, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )

    def logps(rows, keep):
        first = sum(counts[: rows.start])
        some = slice(first, first + sum(counts[rows]))
        return trainer._get_per_token_logps_and_entropies(
            model, ids[rows, : ids.shape[1] - longest + keep],
            mask[rows, : ids.shape[1] - longest + keep], keep,
            pixel_values=prompts["pixel_values"][some], num_images=counts[rows],
        )[0]  # fmt: skip

    with method(model):
        batch = logps(slice(0, 3), longest)
        real = mask[:, -longest:] != 0
        (batch * weights)[real].sum().backward()
        found = gradients(model)
        for row, words in enumerate(told):
            alone = logps(slice(row, row + 1), len(words))
            torch.testing.assert_close(
                batch[row, : len(words)].detach(), alone[0].detach(), rtol=1e-3, atol=1e-3
            )
            (alone[0] * weights[row, : len(words)]).sum().backward()
    same_gradients(found, gradients(model))


@pytest.mark.parametrize("method", METHODS[:2], ids=lambda m: type(m).__name__)
def test_a_step_of_grpo(tmp_path, method):
    """Sampling, rewards, log-probabilities and the update, all of a pruned model."""
    setup = lora(tiny())
    trainer = grpo(setup, tmp_path)
    with method(trainer.model) as handle:
        trainer.train()
        assert handle.report
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses and all(map(torch.isfinite, map(torch.tensor, losses)))


def test_label_smoothing_says_that_lengths_differ(tmp_path):
    """It compares labels of the whole prompt with fewer logits itself: an error, no wrong loss."""
    setup = lora(tiny())
    trainer = sft(setup, tmp_path, label_smoothing_factor=0.1)
    batch = trainer.data_collator(ROWS)
    with METHODS[0](trainer.model) as handle:
        with pytest.raises(RuntimeError, match="Size does not match"):
            trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=9)
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        outputs = trainer.model(**inputs)
        labels = handle.take(batch["labels"], fill=-100)
        loss = trainer.label_smoother(outputs, labels, shift_labels=True)
    assert bool(loss.isfinite())
