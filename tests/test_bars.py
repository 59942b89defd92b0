"""Bars of progress while something is loaded: where a person waits, once, and nowhere else."""

from __future__ import annotations

import sys
import threading

import pytest
from transformers.utils import logging

from sparevlm import SPARE, hf
from sparevlm.bars import loading_bars
from sparevlm.pocket.model import make_processor
from tests.tiny import tiny_clip, tiny_llava

BAR = "Loading weights"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaVA on disk with its CLIP beside it, as the pocket model lies."""
    place = tmp_path_factory.mktemp("llava")
    processor = make_processor()
    tiny_llava().save_pretrained(place)
    processor.save_pretrained(place)
    tiny_clip().save_pretrained(place / "clip")
    processor.tokenizer.save_pretrained(place / "clip")
    return place


@pytest.fixture(autouse=True)
def enabled():
    assert logging.is_progress_bar_enabled()
    yield
    assert logging.is_progress_bar_enabled()


def loaded(name):
    """Load, and attach, which loads the text tower beside the model."""
    model, processor = hf.load(str(name), device="cpu")
    for _ in range(2):
        SPARE(9).attach(model, tokenizer=processor.tokenizer, relevance="clip").detach()


def test_nothing_in_a_log(folder, capsys):
    loaded(folder)
    assert capsys.readouterr().err == ""


def test_one_bar_for_a_person(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    loaded(folder)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    assert any(line.startswith(BAR) for line in lines)
    assert sum(line.startswith(BAR) and "100%" in line for line in lines) == 1


def test_one_bar_in_a_notebook(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    loaded(folder)
    assert BAR in capsys.readouterr().err


def test_no_bar_for_the_pocket_model(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    loaded("pocket")
    assert capsys.readouterr().err == ""


def test_what_the_user_chose_stays(folder, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "0")
    with loading_bars(False):
        assert logging.is_progress_bar_enabled()
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS")
    logging.disable_progress_bar()
    try:
        with loading_bars(True), loading_bars(False):
            assert not logging.is_progress_bar_enabled()
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()


def test_several_at_once():
    """Bars come back when the last has loaded, and not before."""
    inside, go = threading.Event(), threading.Event()

    def slow():
        with loading_bars(False):
            inside.set()
            go.wait(10)

    thread = threading.Thread(target=slow)
    thread.start()
    inside.wait(10)
    with loading_bars(False):
        pass
    assert not logging.is_progress_bar_enabled()
    go.set()
    thread.join()
    assert logging.is_progress_bar_enabled()
