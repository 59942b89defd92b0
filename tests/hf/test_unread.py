"""Layers of the vision encoder whose output no one reads are passed over while a call is pruned."""

from __future__ import annotations

import threading

import pytest
import torch

from sparevlm.hf.unread import passed_over, unread_layers
from sparevlm.methods import SPARE, DivPrune, PruMerge
from sparevlm.speed.measure import _encode, _passing_over
from tests.hf.conftest import ONE

KEEP = 5


@pytest.fixture
def layers(tiny):
    """Of CLIP; the projector reads what the one before the last gives."""
    assert tiny.model.config.vision_feature_layer == -2
    return list(tiny.model.model.vision_tower.encoder.layers)


@pytest.fixture
def run(layers):
    """Which layers' attention ran."""
    seen: list[int] = []
    hooks = [
        layer.self_attn.register_forward_hook(lambda *_, i=i: seen.append(i))
        for i, layer in enumerate(layers)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def untouched(layers) -> bool:
    return all("forward" not in vars(layer) for layer in layers)


def test_the_last_layer_does_not_run_and_features_are_stocks(tiny, layers, run):
    inputs = tiny.inputs(ONE)
    with torch.no_grad():
        stock = tiny.model.get_image_features(inputs["pixel_values"], return_dict=True)
        assert run == list(range(len(layers)))
        run.clear()
        pruned = DivPrune(KEEP).prune_inputs(tiny.model, inputs)
    assert run == list(range(len(layers) - 1)) and untouched(layers)
    kept = pruned["mm_encoder_outputs"]["image"].pooler_output[0]
    places = [(stock.pooler_output[0] == row).all(1).nonzero().item() for row in kept]
    assert places == sorted(places) and len(places) == KEEP


def test_what_is_read_runs(tiny, layers, run):
    """Attention of the last layer, by a method; its output, by the projector."""
    inputs = tiny.inputs(ONE)
    PruMerge(KEEP).prune_inputs(tiny.model, inputs)
    assert run == list(range(len(layers)))
    run.clear()
    DivPrune(KEEP).prune_inputs(tiny.model, inputs | {"vision_feature_layer": -1})
    assert run == list(range(len(layers)))
    run.clear()
    DivPrune(KEEP).prune_inputs(tiny.model, inputs | {"vision_feature_layer": 1})
    assert run == [0]


def test_generate_and_forward_leave_the_model_as_it_was(tiny, layers, run):
    inputs = tiny.inputs(ONE)
    with SPARE(KEEP, guidance="none")(tiny.model), torch.no_grad():
        tiny.model(**inputs)
        tiny.model.generate(**inputs, max_new_tokens=2)
        assert run == 2 * list(range(len(layers) - 1)) and untouched(layers)
        broken = inputs | {"pixel_values": inputs["pixel_values"][:, :, :5]}
        with pytest.raises(ValueError, match="does not take these"):
            tiny.model(**broken)
    assert untouched(layers)
    run.clear()
    tiny.model(**inputs)
    assert run == list(range(len(layers)))


def test_another_thread_runs_all_of_them(layers):
    x = torch.randn(1, 4, 32, dtype=layers[-1].mlp.fc1.weight.dtype)
    wanted = layers[-1](x, None)
    found = []
    with passed_over(layers[-1:]), torch.no_grad():
        assert layers[-1](x, None) is x
        other = threading.Thread(target=lambda: found.append(layers[-1](x, None)))
        other.start()
        other.join()
        with passed_over(layers[-1:]):
            assert layers[-1](x, None) is x
        assert layers[-1](x, None) is x
    torch.testing.assert_close(found[0], wanted)
    torch.testing.assert_close(layers[-1](x, None), wanted)
    assert untouched(layers)


def test_a_layer_that_something_else_has_changed_runs(tiny, layers):
    tower = tiny.model.model.vision_tower
    assert unread_layers(tiny.model, tower, -2, -1) == layers[-1:]
    assert unread_layers(tiny.model, tower, [-2, 99], -1) == []  # stock says what is wrong
    layers[-1].forward = layers[-1].forward  # as accelerate does
    try:
        assert unread_layers(tiny.model, tower, -2, -1) == []
    finally:
        del layers[-1].forward
    layers[-1].compile(backend="eager")
    try:
        assert unread_layers(tiny.model, tower, -2, -1) == []
    finally:
        layers[-1]._compiled_call_impl = None


def test_the_speed_of_the_encoder_is_that_of_such_a_call(tiny, layers, run):
    inputs = tiny.inputs(ONE)
    for way, last in ((None, 0), (DivPrune(KEEP), 1), (PruMerge(KEEP), 0)):
        run.clear()
        with _passing_over(tiny.model, way, inputs), torch.no_grad():
            _encode(tiny.model, inputs)
        assert run == list(range(len(layers) - last))
