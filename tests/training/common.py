"""A tiny model with LoRA, and gradients to compare."""

from __future__ import annotations

import peft
import torch

from sparevlm.pocket.model import make_processor
from tests.hf.conftest import Setup, calm
from tests.tiny import tiny_llava


def tiny() -> Setup:
    torch.manual_seed(0)
    return Setup("tiny", calm(tiny_llava(seed=1)), make_processor())


def with_lora(model, task="CAUSAL_LM"):
    """LoRA whose second matrix is not zero, so that gradients reach both."""
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type=task, r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
    )  # fmt: skip
    return peft.get_peft_model(model, config).double()


def gradients(model) -> dict[str, torch.Tensor]:
    found = {
        name: weight.grad.clone()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    model.zero_grad()
    return found


def same_gradients(found, expected, *, rtol=1e-3, atol=1e-7) -> None:
    assert found.keys() == expected.keys() and found
    assert max(float(grad.abs().max()) for grad in expected.values()) > 100 * atol
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=rtol, atol=atol, msg=name)
