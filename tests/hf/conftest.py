"""Models, prompts and pictures that the tests of the mechanism share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from sparevlm.hf import load
from sparevlm.pocket.model import make_processor
from sparevlm.pocket.scenes import draw_scene
from tests.tiny import tiny_llava

TWO = "USER: <image>\n<image>\nis the red star in the first picture ? ASSISTANT:"
ONE = "USER: <image>\nwhat color is the star ? ASSISTANT:"
SHORT = "USER: <image>\ncount the digits . ASSISTANT:"
TEXT = "USER: what color is the circle ? ASSISTANT:"


@dataclass
class Setup:
    """A model with its processor; `inputs` makes the tensors of prompts with pictures."""

    name: str
    model: Any
    processor: Any

    def inputs(self, *prompts: str, side: str = "left", first: int = 0) -> dict[str, Any]:
        pictures = [
            draw_scene(first + i).picture()
            for i in range(sum(prompt.count("<image>") for prompt in prompts))
        ]
        self.processor.tokenizer.padding_side = side
        found = self.processor(
            images=pictures or None, text=list(prompts), padding=True, return_tensors="pt"
        )
        self.processor.tokenizer.padding_side = "left"
        if "pixel_values" in found:
            found["pixel_values"] = found["pixel_values"].to(self.model.dtype)
        return dict(found)

    def ids(self, text: str) -> torch.Tensor:
        return self.processor.tokenizer(
            text, add_special_tokens=False, return_tensors="pt"
        ).input_ids


def calm(model: Any) -> Any:
    """A random model must not stop by chance, nor speak of a picture that is not there."""
    model.generation_config.pad_token_id = model.config.pad_token_id
    model.generation_config.eos_token_id = 10**6
    model.generation_config.suppress_tokens = [model.config.image_token_id]
    return model


@pytest.fixture(scope="session", params=["tiny", "pocket"])
def setup(request) -> Setup:
    torch.manual_seed(0)
    if request.param == "tiny":
        return Setup("tiny", calm(tiny_llava()), make_processor())
    return _pocket()


@pytest.fixture(scope="module")
def pocket() -> Setup:
    """The pocket model alone, for tests of one file."""
    return _pocket()


def _pocket() -> Setup:
    return Setup("pocket", *load("pocket", dtype=torch.float64, device="cpu"))


@pytest.fixture
def tiny() -> Setup:
    """A model of its own for tests that try to break it."""
    return Setup("tiny", calm(tiny_llava(seed=1)), make_processor())


@pytest.fixture(params=["cache", "past_key_values"])
def named(request) -> Callable[[Any], dict[str, Any]]:
    """A cache as an argument, under its name of transformers 5.24 and its name of before."""
    return lambda cache: {request.param: cache}


@pytest.fixture
def wide(monkeypatch):
    """Families with windows that hold the prompts."""

    def widen(family):
        config = family.model.config.get_text_config()
        if getattr(config, "sliding_window", None):
            monkeypatch.setattr(config, "sliding_window", 4096)
        return family

    return widen
