"""keep = k equals text and chosen rows put together by hand."""

from __future__ import annotations

import pytest
import torch

from sparevlm.budgets import Residual
from sparevlm.methods import SPARE, RandomTokens, UniformGrid
from tests.hf.conftest import ONE, SHORT, TEXT, TWO
from tests.hf.reference import embed_row, features_of, greedy, logits_of

METHODS = [
    SPARE(12, guidance="none"),
    SPARE(Residual(0.2, minimum=3), guidance="none"),
    RandomTokens(0.05, seed=3),
    UniformGrid(1),
    SPARE(20, guidance="none", per="prompt"),
]


def rows_by_hand(setup, inputs, report, method):
    """Per prompt: embeddings and columns from the reported indices, padding left out."""
    features = features_of(setup.model, inputs["pixel_values"])
    kept = []
    for one in report:
        per_image = one.before // 196
        for i in range(per_image):
            inside = (one.indices >= i * 196) & (one.indices < (i + 1) * 196)
            kept.append(one.indices[inside] - i * 196)
    found, first = [], 0
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        real = ids[mask != 0].tolist()
        pictures = real.count(setup.model.config.image_token_id) // 196
        part = slice(first, first + pictures)
        found.append(embed_row(setup.model, real, features[part], kept[part]))
        first += pictures
    return found


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_generate(setup, method, side, positions):
    method = type(method)(**{**method.__dict__, "positions": positions})
    prompts = (ONE, TWO, TEXT, SHORT)
    inputs = setup.inputs(*prompts, side=side)
    with method(setup.model) as handle:
        out = setup.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :length], inputs["input_ids"])
    hand = rows_by_hand(setup, inputs, handle.report, method)
    for answer, (rows, columns) in zip(out[:, length:].tolist(), hand, strict=True):
        expected = greedy(setup.model, rows, columns, 6, original=positions == "original")
        assert answer[: len(expected)] == expected


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_forward(setup, method, side, positions):
    method = type(method)(**{**method.__dict__, "positions": positions})
    inputs = setup.inputs(TWO, ONE, TEXT, side=side)
    with torch.no_grad(), method(setup.model) as handle:
        out = setup.model(**inputs)
        uncached = setup.model(**inputs, use_cache=False)
    torch.testing.assert_close(uncached.logits, out.logits)
    for i, (rows, columns) in enumerate(rows_by_hand(setup, inputs, handle.report, method)):
        expected = logits_of(setup.model, rows, columns if positions == "original" else None)
        found = out.logits[i, -len(rows) :] if side == "left" else out.logits[i, : len(rows)]
        # stock rotary angles are float32, and left padding shifts them
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_positions_change_the_result(setup):
    inputs = setup.inputs(ONE)
    with torch.no_grad():
        found = []
        for positions in ("compact", "original"):
            with UniformGrid(9, positions=positions)(setup.model):
                found.append(setup.model(**inputs).logits)
    assert not torch.allclose(*found)


def test_wrong_tokens_would_be_noticed(setup):
    inputs = setup.inputs(ONE)
    with torch.no_grad(), UniformGrid(9)(setup.model) as handle:
        out = setup.model(**inputs)
        handle.report[0].indices = (handle.report[0].indices + 1) % 196
        ((rows, _),) = rows_by_hand(setup, inputs, handle.report, UniformGrid(9))
        assert not torch.allclose(out.logits[0], logits_of(setup.model, rows))


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_prune_inputs_gives_plain_arguments(setup, positions):
    inputs = setup.inputs(ONE, TWO)
    method = SPARE(7, guidance="none", positions=positions)
    pruned = method.prune_inputs(setup.model, inputs)
    assert "pixel_values" in inputs and "pixel_values" not in pruned
    with method(setup.model):
        expected = setup.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    found = setup.model.generate(**pruned, max_new_tokens=5, do_sample=False)
    new = expected[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(found[:, pruned["input_ids"].shape[1] :], new)
    both = int(inputs["input_ids"].shape[1]) - 2 * (196 - 7)
    assert pruned["input_ids"].shape[1] == both


def test_batch_equals_singles(setup):
    prompts = (ONE, SHORT, TEXT)
    whole = setup.inputs(*prompts)
    with SPARE(11, guidance="none")(setup.model):
        batch = setup.model.generate(**whole, max_new_tokens=6, do_sample=False)
        for i, prompt in enumerate(prompts):
            one = setup.inputs(prompt, first=i)
            single = setup.model.generate(**one, max_new_tokens=6, do_sample=False)
            answer = single[0, one["input_ids"].shape[1] :]
            assert batch[i, whole["input_ids"].shape[1] :][: len(answer)].equal(answer)
