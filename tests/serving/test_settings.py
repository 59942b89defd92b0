"""What a server is asked for, without vLLM."""

from __future__ import annotations

import json

import pytest
import torch

from sparevlm import Residual
from sparevlm.serving.item import Part, PrunedItem, Run, runs_of
from sparevlm.serving.model import batches
from sparevlm.serving.settings import from_environment, read_settings, servable

BOTH = ("original", "compact")


def read(*layers, positions=BOTH):
    return read_settings(*layers, positions=positions)


@pytest.mark.parametrize("layers", [(), (None, {}, None), ({"keep": None},), ({"keep": 1.0},)])
def test_off_unless_asked_for(layers):
    assert read(*layers) is None


@pytest.mark.parametrize(
    ("keep", "of", "kept"),
    [(64, 576, 64), ("64", 576, 64), (0.25, 576, 144), ("5.6%", 576, 32), (1, 576, 1),
     (900, 576, 576), (0.001, 576, 1)],
)  # fmt: skip
def test_budget(keep, of, kept):
    assert read({"keep": keep}).tokens(of) == kept
    assert read(keep).tokens(of) == kept


def test_the_first_layer_wins():
    found = read({"keep": 9}, {"keep": 64, "method": "divprune"}, {"method": "dart"})
    assert (found.method.keep, found.method.name) == (9, "divprune")
    assert read({"keep": 1.0}, {"keep": 64}) is None


def test_naming_a_method_hides_the_fields_of_another():
    found = read({"method": "divprune"}, {"keep": 64, "normalize": True})
    assert (found.method.keep, found.method.name) == (64, "divprune")


def test_spare_is_not_guided_unless_asked_to():
    assert not read({"keep": 9}).guided
    assert read({"keep": 9, "guidance": "anti"}).guided
    assert read({"keep": 9, "strength": 0.5}).guided
    assert not read({"keep": 9, "method": "divprune"}).guided


def test_whole_numbers_are_fine_for_fractions():
    assert read({"keep": 9, "strength": 1}).method.strength == 1.0


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"keep": 0}, "leaves no tokens"),
        ({"keep": -3}, "leaves no tokens"),
        ({"keep": 1.5}, "no fraction"),
        ({"keep": "many"}, "no budget"),
        ({"keep": [64]}, "no budget"),
        ({"keep": True}, "no budget"),
        ({"keep": float("nan")}, "no budget"),
        ({"keep": Residual(0.05)}, "before it is encoded"),
        ({"keep": 9, "method": "magic"}, "no method is named 'magic'"),
        ({"keep": 9, "method": 7}, "no method is named 7"),
        ({"keep": 9, "method": "visionzip"}, "encoder attention"),
        ({"keep": 9, "method": "no-image"}, "known beforehand"),
        ({"keep": 9, "colour": "red"}, "no setting colour"),
        ({"keep": 9, "strength": 3}, "from 0 to 1"),
        ({"keep": 9, "per": "tile"}, 'per="prompt" (all of them jointly)'),
        ({"keep": 9, "per": "frame"}, "per"),
        ({"keep": 9, "positions": "random"}, "positions"),
        ({"method": "dart"}, "how many tokens to keep is missing"),
        ([64], "no setting"),
        (True, "no setting"),
    ],
)
def test_what_is_wrong_is_said(layer, words):
    with pytest.raises(ValueError, match="sparevlm") as caught:
        read(layer)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_positions_that_the_server_cannot_give():
    with pytest.raises(ValueError, match="not to be had"):
        read({"keep": 9, "positions": "original"}, positions=("compact",))
    assert read({"keep": 9, "positions": "compact"}).method.positions == "compact"


def test_environment(monkeypatch):
    monkeypatch.setenv("SPAREVLM_KEEP", "11.1%")
    monkeypatch.setenv("SPAREVLM_METHOD", "divprune")
    found = read(None, from_environment())
    assert (found.tokens(576), found.method.name) == (64, "divprune")
    monkeypatch.delenv("SPAREVLM_KEEP")
    monkeypatch.delenv("SPAREVLM_METHOD")
    assert read(from_environment()) is None


@pytest.mark.parametrize("name", servable())
def test_an_item_comes_back_as_it_was(name):
    settings = read({"keep": 0.5, "method": name}).keeping(7).placed("compact")
    item = PrunedItem(settings, (Run(9, 196, True),), (Part("image", 0, 1),))
    back = PrunedItem.from_tensor(item.to_tensor())
    assert back == item
    assert (back.count, back.total, back.original) == (7, 196, False)
    assert json.dumps(settings.as_dict())


def test_an_item_carries_any_question():
    settings = read({"keep": 7, "guidance": "anti"})
    asked = type(settings)(settings.method, 'Größe "x"?\n日本')
    item = PrunedItem(asked, (Run(9, 9, True),), (Part("image", 0, 1),))
    assert PrunedItem.from_tensor(item.to_tensor()).settings.question == asked.question


FRAMES = [5, 9, 9, 9, 6, 5, 9, 9, 9, 6]  # marks around three tokens, twice


def test_runs_of_a_picture_and_of_frames():
    visual = [token == 9 for token in FRAMES]
    runs = runs_of(FRAMES, visual, 2)
    assert [(r.token, r.length, r.visual) for r in runs] == [
        (5, 1, False), (9, 3, True), (6, 1, False), (5, 1, False), (9, 3, True), (6, 1, False),
    ]  # fmt: skip
    assert runs_of([9] * 7, [True] * 7, 1) == [Run(9, 7, True)]
    # Three frames of two, and what ends the video.
    assert [run.length for run in runs_of([9] * 7, [True] * 7, 3)] == [2, 2, 3]


@pytest.mark.parametrize(
    ("keep", "per", "short", "kept"),
    [
        (2, "image", [5, 9, 9, 6, 5, 9, 9, 6], 4),
        (3, "prompt", [5, 9, 6, 5, 9, 9, 6], 3),
        (1, "prompt", [5, 6, 5, 9, 6], 1),  # words stay where a frame vanishes
    ],
)
def test_what_stands_in_the_prompt(keep, per, short, kept):
    runs = runs_of(FRAMES, [token == 9 for token in FRAMES], 2)
    settings = read({"keep": keep, "per": per})
    item = PrunedItem(settings, tuple(runs), (Part("video", 0, len(runs)),))
    assert item.whole() == FRAMES and item.shortened() == short
    assert (item.total, item.kept, item.units, item.joint) == (6, kept, [3, 3], per == "prompt")
    assert item.starts == [0, 1, 4, 5, 6, 9, 10]


def test_every_method_that_can_be_served_gives_the_number_it_promised():
    from sparevlm.tokens import Query, VisualTokens

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(36, 8, generator=generator)
    query = Query(rows, torch.randn(3, 8, generator=generator), "llm")
    for name in servable():
        method = read({"keep": 7, "method": name}).method
        found = method.reduce(VisualTokens(rows, (6, 6), None, query))
        assert len(found.indices) == 7, name


def test_methods_inside_the_decoder_are_refused_for_the_true_reason():
    with pytest.raises(ValueError, match="fastv works between the layers of the language model"):
        read({"keep": 7, "method": "fastv"})


def test_pictures_are_encoded_a_few_at_a_time():
    sizes = [196] * 300
    runs = list(batches(sizes, 512))
    assert runs[0] == (0, 2)
    assert [first for first, _ in runs[1:]] == [last for _, last in runs[:-1]]
    assert runs[-1][1] == 300
    assert max(sum(sizes[a:b]) for a, b in runs) <= 512
    assert list(batches([900, 100, 100], 512)) == [(0, 1), (1, 3)]  # too large alone
