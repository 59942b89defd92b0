"""Both training stages, a few steps each: they run, stop, go on, and export."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoProcessor, CLIPModel, LlavaForConditionalGeneration

from sparevlm.hf.loading import SHIPPED
from sparevlm.pocket import model, questions
from sparevlm.pocket.pictograms import NAMES
from sparevlm.pocket.scenes import SCENES
from sparevlm.pocket.training import card, language, tower
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
    llava = LlavaForConditionalGeneration.from_pretrained(run / "pocket", dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(run / "pocket")
    inputs = processor(text="USER: count the digits . ASSISTANT:", return_tensors="pt")
    assert llava.generate(**inputs, max_new_tokens=2).shape[0] == 1
    lines = [json.loads(line) for line in (run / "language.jsonl").read_text().splitlines()]
    assert set(lines[-1]["validation"]) == set(SCENES)
    assert all("overall" in found for found in lines[-1]["validation"].values())


def test_the_card(run, tmp_path):
    card.write_card(run, 20, "a machine", "A note.", ["plain", "dense"], before=run)
    first = json.loads((run / "pocket" / "accuracy.json").read_text())
    assert card.UNSEEN in (run / "pocket" / "README.md").read_text() and "next" not in first
    card.write_card(run, 20, "a machine", "A note.", ["plain", "dense"], before=run, seen=True)
    text = (run / "pocket" / "README.md").read_text()
    assert "a machine" in text and "A note." in text and "| **overall** |" in text
    assert "Dense scenes" in text and "Both go on from an earlier run" in text
    assert {"curves.png", "earlier-tower.jsonl", "tower.jsonl"} <= {
        path.name for path in (run / "pocket").iterdir()
    }
    found = json.loads((run / "pocket" / "accuracy.json").read_text())
    assert set(found["scenes"]) == set(found["next"]) == {"plain", "dense"}
    assert found["scenes"] == first["scenes"] and "Of the next 20 test questions" in text
    assert card.UNSEEN not in text


def test_a_run_can_begin_from_an_earlier_one_with_fewer_words(run, tmp_path, monkeypatch):
    """What the earlier model says stays what it was, in the words it knew."""
    known = [word for word in questions.words() if word not in NAMES]
    with monkeypatch.context() as patch:
        patch.setattr(model, "words", lambda: known)
        tower.train(tmp_path, steps=2, batch=2, lr=1e-3, stop=2, local=True)
        first = language.Pocket(CLIPModel.from_pretrained(tmp_path / "clip"), 64, 1)
        language.export(first.llava, tmp_path)
    second = language.Pocket(CLIPModel.from_pretrained(tmp_path / "clip"), 64, 1)
    language.begin_from(second.llava, tmp_path / "pocket")
    texts = ["USER: count the digits . ASSISTANT:"]
    old = AutoProcessor.from_pretrained(tmp_path / "pocket").tokenizer
    new = model.make_processor().tokenizer
    assert len(new) == len(old) + len(NAMES) == len(model.words()) + len(model.SPECIAL)
    with torch.no_grad():
        before = LlavaForConditionalGeneration.from_pretrained(
            tmp_path / "pocket", dtype=torch.float32
        )(**old(texts, return_tensors="pt")).logits[0, -1]
        after = second.llava.float()(**new(texts, return_tensors="pt")).logits[0, -1]
    ids = [new.get_vocab()[word] for word in sorted(old.get_vocab(), key=old.get_vocab().get)]
    torch.testing.assert_close(after[ids], before, atol=2e-2, rtol=1e-2)
    later = tower.Tower(model.clip_config(width=128))
    tower.begin_from(later, tmp_path / "clip")


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


def test_which_run_was_natural():
    assert {name: card.is_natural(folder) for name, folder in SHIPPED.items()} == {
        "pocket": False,
        "pocket-natural": True,
    }


def test_what_a_second_natural_run_began_with():
    before = SHIPPED["pocket"]
    text = card.story(SHIPPED["pocket-natural"], before)
    assert f"({card.run_facts(before)['pictures']:,} pictures" in text
    assert "by way of an earlier run" in text and "`--natural` asks for" in text
