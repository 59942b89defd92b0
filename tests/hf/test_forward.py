"""Labels, gradients and odd arguments of forward calls."""

from __future__ import annotations

import pytest
import torch

from sparevlm.methods import SPARE, UniformGrid
from tests.hf.conftest import ONE, SHORT, TEXT, TWO

METHOD = SPARE(10, guidance="none", positions="compact")


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["compact", "original"])
def test_loss_covers_the_same_labels(setup, side, positions):
    method = SPARE(10, guidance="none", positions=positions)
    inputs = setup.inputs(TWO, TEXT, side=side)
    labels = inputs["input_ids"].clone()
    labels[labels == setup.model.config.image_token_id] = -100
    # The first token of a row follows nothing; beside left padding it would follow that.
    labels[inputs["attention_mask"].cumsum(1) <= 1] = -100
    labels[inputs["attention_mask"] == 0] = -100
    with torch.no_grad(), method(setup.model):
        out = setup.model(**inputs, labels=labels)
        singles, counts = [], []
        for prompt in (TWO, TEXT):
            one = setup.inputs(prompt)
            told = one["input_ids"].clone()
            told[told == setup.model.config.image_token_id] = -100
            singles.append(setup.model(**one, labels=told).loss)
            counts.append(int((told[:, 1:] != -100).sum()))
    weights = torch.tensor(counts, dtype=torch.float64)
    expected = (torch.stack(singles).double() * weights).sum() / weights.sum()
    torch.testing.assert_close(out.loss.double(), expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_projector(tiny):
    inputs = tiny.inputs(ONE)
    with METHOD(tiny.model):
        tiny.model(**inputs, labels=inputs["input_ids"]).loss.backward()
    weight = tiny.model.model.multi_modal_projector.linear_1.weight
    assert weight.grad is not None and float(weight.grad.abs().sum()) > 0


def test_positional_arguments(setup):
    inputs = setup.inputs(ONE)
    with torch.no_grad(), METHOD(setup.model):
        expected = setup.model(**inputs).logits
        found = setup.model(inputs["input_ids"], inputs["pixel_values"], inputs["attention_mask"])
    assert torch.equal(found.logits, expected)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_positions_of_the_user(setup, positions):
    method = SPARE(10, guidance="none", positions=positions)
    inputs = setup.inputs(ONE, SHORT)
    given = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad(), method(setup.model):
        expected = setup.model(**inputs).logits
        found = setup.model(**inputs, position_ids=given).logits
    real = inputs["attention_mask"].sum(1) - (196 - 10)
    for i, length in enumerate(real.tolist()):
        torch.testing.assert_close(found[i, -length:], expected[i, -length:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_no_mask_and_no_cache(setup, positions):
    method = UniformGrid(10, positions=positions)
    inputs = setup.inputs(ONE)
    with torch.no_grad(), method(setup.model):
        expected = setup.model(**inputs).logits
        inputs.pop("attention_mask")
        found = setup.model(**inputs, use_cache=False).logits
    torch.testing.assert_close(found, expected)


def test_the_base_model_alone(setup):
    inputs, base = setup.inputs(ONE), setup.model.model
    with torch.no_grad():
        with METHOD(setup.model):
            expected = setup.model(**inputs, output_hidden_states=True).hidden_states[-1]
        with METHOD(base) as handle:
            found = base(**inputs).last_hidden_state
    torch.testing.assert_close(found, expected)
    assert handle.report[0].after == 10


def test_one_run_of_the_encoder(setup):
    calls = []
    hook = setup.model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    try:
        with METHOD(setup.model):
            setup.model.generate(**setup.inputs(ONE, TWO), max_new_tokens=3)
    finally:
        hook.remove()
    assert len(calls) == 1


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_a_mask_that_hides_a_picture_in_the_middle(setup, positions):
    """Positions go up, and original ones are those of stock, which counts columns."""
    method = SPARE(10, guidance="none", positions=positions)
    inputs = setup.inputs("USER: <image> red <image> what color is the star ? ASSISTANT:")
    image = (inputs["input_ids"][0] == setup.model.config.image_token_id).nonzero()[:, 0]
    inputs["attention_mask"][0, image[:196]] = 0
    seen = []
    hook = setup.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    with torch.no_grad(), method(setup.model) as handle:
        setup.model(**inputs)
        columns = handle.columns[0]
    hook.remove()
    steps = seen[0][0].diff()
    assert bool((steps > 0).all())
    if positions == "original":
        assert torch.equal(seen[0][0] - seen[0][0, 0], columns - columns[0])
