"""The shipped models: load with plain transformers, and answer."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoProcessor, CLIPModel, LlavaForConditionalGeneration

from sparevlm import load
from sparevlm.hf.loading import SHIPPED
from sparevlm.methods import SPARE
from sparevlm.pocket.questions import skills
from sparevlm.pocket.scenes import SCENES
from sparevlm.pocket.training.evaluate import accuracy, answer
from sparevlm.relevance import tower_name


@pytest.fixture(scope="module", params=SHIPPED)
def folder(request):
    return SHIPPED[request.param]


@pytest.fixture(scope="module")
def pocket(folder):
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(folder)


def test_files(folder):
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert size < 25e6
    for place in (folder, folder / "clip"):
        with safe_open(place / "model.safetensors", "pt") as weights:
            names = list(weights.keys())
            assert {weights.get_tensor(name).dtype for name in names} == {torch.float16}
    with safe_open(folder / "model.safetensors", "pt") as weights:  # as LLaVA checkpoints name them
        names = list(weights.keys())
        assert any("vision_tower.vision_model." in name for name in names)


def test_nothing_is_missing(folder):
    _, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    _, info = CLIPModel.from_pretrained(folder / "clip", output_loading_info=True)
    assert not info["missing_keys"]


@pytest.mark.parametrize("name", SHIPPED)
def test_by_name(name):
    model, _ = load(name, device="cpu")
    assert model.dtype == torch.float32 and tower_name(model) == str(SHIPPED[name] / "clip")


def test_the_tower_is_clips(folder, pocket):
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32)
    ours = dict(pocket[0].model.vision_tower.named_parameters())
    for name, weight in clip.vision_model.named_parameters():
        assert torch.equal(ours[name], weight)


def measured_of(folder):
    return json.loads((folder / "accuracy.json").read_text())["scenes"]


@pytest.mark.parametrize("scenes", SCENES)
def test_accuracy_is_what_the_card_says(folder, pocket, scenes):
    measured = measured_of(folder)[scenes]
    found = accuracy(answer(*pocket, "test", 200, scenes))
    expected = measured["all"]["overall"]
    deviation = (expected * (1 - expected) / 200) ** 0.5
    assert found["overall"] == pytest.approx(expected, abs=3 * deviation + 0.005)
    for skill in skills(scenes):
        blind = max(measured["no_picture"][skill], measured["most_frequent"][skill])
        assert measured["all"][skill] > blind + 0.05


def test_plain_scenes_are_no_difficulty(folder):
    measured = measured_of(folder)["plain"]["all"]
    assert measured["overall"] >= 0.95 and min(measured.values()) >= 0.9


def test_pruned_answers_use_the_picture(pocket):
    model, processor = pocket
    with SPARE(49)(model):
        scores = answer(model, processor, "test", 100)
    assert accuracy(scores)["overall"] > 0.4


def test_chat_template(pocket):
    _, processor = pocket
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it red ?"}]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": [{"type": "text", "text": "what shape is red ?"}]},
    ]
    prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert prompt == (
        "<s>USER: <image>\nis it red ? ASSISTANT: yes</s>USER: what shape is red ? ASSISTANT:"
    )
