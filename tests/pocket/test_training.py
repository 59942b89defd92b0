"""Both training stages, a few steps each: they run, stop, go on, and export."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from sparevlm.pocket.training import language, tower
from sparevlm.pocket.training.evaluate import Score, accuracy, most_frequent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    threads = torch.get_num_threads()
    tower.train(out, steps=3, batch=2, lr=1e-3, stop=3, local=True)
    language.train(out, 3, 2, 1e-3, width=64, layers=1, stop=3, questions=10)
    torch.set_num_threads(threads)
    return out


def test_what_is_exported_loads(run):
    model = LlavaForConditionalGeneration.from_pretrained(run / "pocket", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(run / "pocket")
    inputs = processor(text="USER: count the digits . ASSISTANT:", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2).shape[0] == 1
    lines = [json.loads(line) for line in (run / "language.jsonl").read_text().splitlines()]
    assert "overall" in lines[-1]["validation"]


def test_a_stopped_run_goes_on(tmp_path):
    """Two steps and one more give the weights of three in a row."""

    def weights(*stops):
        out = tmp_path / str(stops)
        out.mkdir()
        for stop in stops:
            tower.train(out, steps=3, batch=2, lr=1e-3, stop=stop, local=True)
        return torch.load(out / "tower.pt", weights_only=True)["module"]

    once, twice = weights(3), weights(2, 3)
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value)


def test_scores():
    scores = [
        Score("color", "?", "red", "red"),
        Score("color", "?", "red", "blue"),
        Score("count", "?", "two", "two"),
    ]
    assert accuracy(scores) == {"overall": 2 / 3, "color": 0.5, "count": 1.0}
    assert most_frequent(scores) == {"color": 1.0, "count": 1.0}
