"""Every way of generating, against the same generation from inputs pruned beforehand."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import GenerationConfig, set_seed
from transformers.generation.streamers import BaseStreamer

from sparevlm.hf import FAMILIES
from sparevlm.methods import SPARE, UniformGrid
from tests.hf.conftest import ONE, SHORT, TEXT, TWO
from tests.hf.reference import embed_row, features_of, greedy

METHOD = SPARE(10, guidance="none", positions="compact")


def answers(inputs, sequences):
    return sequences[:, inputs["input_ids"].shape[1] :]


def by_embeddings(setup, inputs, report, **options):
    """The stock model, given embeddings of each prompt by itself."""
    features, found, first = features_of(setup.model, inputs["pixel_values"]), [], 0
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        real = ids[mask != 0].tolist()
        pictures = real.count(setup.model.config.image_token_id) // 196
        kept = [one.indices for one in report[first : first + pictures]]
        rows, _ = embed_row(setup.model, real, features[first : first + pictures], kept)
        first += pictures
        found.append(
            setup.model.generate(
                inputs_embeds=rows[None],
                attention_mask=torch.ones(1, len(rows), dtype=torch.long),
                **options,
            )
        )
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False, "num_beams": 3},
        {"do_sample": False, "num_beams": 4, "num_return_sequences": 3},
        {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
        {"do_sample": False, "use_cache": False},
        {"do_sample": False, "repetition_penalty": 1.0, "min_new_tokens": 5},
    ],
    ids=lambda options: ",".join(list(options)[1:]),
)
@pytest.mark.parametrize("prompts", [(TWO, SHORT), (ONE,)], ids=["batch", "single"])
def test_equals_embeddings(setup, options, prompts):
    inputs = setup.inputs(*prompts)
    options = options | {"max_new_tokens": 5}
    with METHOD(setup.model) as handle:
        out = answers(inputs, setup.model.generate(**inputs, **options))
    expected = by_embeddings(setup, inputs, handle.report, **options)
    each = len(out) // len(prompts)
    for i, wanted in enumerate(expected):
        config = setup.model.generation_config
        fill = torch.tensor([config.pad_token_id, config.eos_token_id])  # beams fill with the end
        for ours, theirs in zip(out[i * each : (i + 1) * each], wanted, strict=True):
            length = len(theirs)
            assert ours[:length].equal(theirs)
            assert bool(torch.isin(ours[length:], fill).all())


def test_sampling_draws_from_the_pruned_model(setup):
    inputs = setup.inputs(ONE)
    options = {"do_sample": True, "top_k": 30, "max_new_tokens": 5, "num_return_sequences": 4}
    set_seed(5)
    with METHOD(setup.model) as handle:
        out = answers(inputs, setup.model.generate(**inputs, **options))
    set_seed(5)
    (expected,) = by_embeddings(setup, inputs, handle.report, **options)
    assert torch.equal(out, expected)
    if setup.name == "tiny":
        assert len(set(map(tuple, out.tolist()))) > 1


@pytest.mark.parametrize("positions", ["compact", "original"])
def test_assisted_by_another_model(setup, positions):
    inputs = setup.inputs(ONE)
    helper = copy.deepcopy(setup.model)
    with torch.no_grad():
        for weight in helper.lm_head.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    method = SPARE(10, guidance="none", positions=positions)
    with method(setup.model):
        expected = setup.model.generate(**inputs, max_new_tokens=8, do_sample=False)
        found = setup.model.generate(
            **inputs, max_new_tokens=8, do_sample=False, assistant_model=helper
        )
    assert torch.equal(found, expected)


def test_prompt_lookup(setup):
    # The prompt ends with words that came before; else stock may propose placeholders as answer.
    inputs = setup.inputs("USER: <image>\nred star red star red circle red star red")
    options = {"max_new_tokens": 8, "do_sample": False}
    with METHOD(setup.model):
        expected = setup.model.generate(**inputs, **options)
        found = setup.model.generate(**inputs, **options, prompt_lookup_num_tokens=3)
    assert torch.equal(found, expected)


def test_lengths_count_the_users_prompt(setup):
    inputs = setup.inputs(ONE)
    length = inputs["input_ids"].shape[1]
    with METHOD(setup.model):
        out = setup.model.generate(
            **inputs, max_length=length + 4, min_length=length + 4, do_sample=False
        )
        config = GenerationConfig(max_length=length + 3, do_sample=False, eos_token_id=10**6)
        by_config = setup.model.generate(**inputs, generation_config=config)
    assert out.shape[1] == length + 4
    assert by_config.shape[1] == length + 3
    assert config.max_length == length + 3


def test_positional_ids_and_missing_mask(setup):
    inputs = setup.inputs(ONE, SHORT)
    options = {"max_new_tokens": 4, "do_sample": False}
    with METHOD(setup.model):
        expected = setup.model.generate(**inputs, **options)
        ids = inputs.pop("input_ids")
        inputs.pop("attention_mask")
        assert torch.equal(setup.model.generate(ids, **inputs, **options), expected)


def test_streamer_sees_the_whole_prompt(setup):
    class Collect(BaseStreamer):
        def __init__(self):
            self.pieces, self.ended = [], False

        def put(self, value):
            self.pieces.append(value)

        def end(self):
            self.ended = True

    inputs, streamer = setup.inputs(ONE), Collect()
    with METHOD(setup.model):
        out = setup.model.generate(**inputs, max_new_tokens=4, do_sample=False, streamer=streamer)
    assert torch.equal(streamer.pieces[0], inputs["input_ids"])
    assert torch.cat([piece.view(-1) for piece in streamer.pieces]).equal(out[0])
    assert streamer.ended


def test_output_object(setup):
    inputs = setup.inputs(ONE, TEXT)
    with METHOD(setup.model) as handle:
        out = setup.model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    assert torch.equal(out.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    longest = out.past_key_values.get_seq_length()
    assert longest < inputs["input_ids"].shape[1]
    assert [(one.before, one.after, one.row) for one in handle.report] == [(196, 10, 0)]
    assert 0 < handle.report[0].residual < 1
    assert handle.report[0].milliseconds > 0
    assert handle.report[0].order.sort().values.equal(handle.report[0].indices)


@pytest.mark.parametrize("side", ["left", "right"])
def test_ragged_budgets(setup, side):
    from sparevlm.budgets import Residual

    inputs = setup.inputs(ONE, SHORT, side=side)
    with SPARE(Residual(0.1), guidance="none", positions="compact")(setup.model) as handle:
        out = answers(inputs, setup.model.generate(**inputs, max_new_tokens=5, do_sample=False))
    first, second = handle.report
    assert first.after != second.after  # or the test shows nothing
    for one in handle.report:
        assert one.curve[-1] <= 0.1 < one.curve[-2]
        assert float(one.curve[-1]) == pytest.approx(one.residual, abs=1e-6)
    features = features_of(setup.model, inputs["pixel_values"])
    for i, (ids, mask) in enumerate(
        zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ):
        rows, columns = embed_row(
            setup.model, ids[mask != 0].tolist(), [features[i]], [handle.report[i].indices]
        )
        expected = greedy(setup.model, rows, columns, 5, original=False)
        assert out[i, : len(expected)].tolist() == expected


def test_residual_bounds(setup):
    from sparevlm.budgets import Residual

    inputs = setup.inputs(ONE)
    for budget, kept in ((Residual(0.9, minimum=17), 17), (Residual(0.001, maximum=5), 5)):
        with SPARE(budget, guidance="none")(setup.model) as handle:
            setup.model.generate(**inputs, max_new_tokens=1)
        assert handle.report[0].after == kept


def test_joint_budget_of_a_prompt(setup):
    inputs = setup.inputs(TWO, ONE)
    with UniformGrid(14, per="prompt")(setup.model) as handle:
        setup.model.generate(**inputs, max_new_tokens=1)
    assert [(one.before, one.after) for one in handle.report] == [(392, 14), (196, 14)]


def test_auto_is_what_was_measured_for_the_family(setup):
    inputs, family = setup.inputs(ONE), FAMILIES["llava"].positions
    found = {}
    with torch.no_grad():
        for positions in ("auto", "compact", "original"):
            with SPARE(10, guidance="none", positions=positions)(setup.model):
                found[positions] = setup.model(**inputs).logits
    assert torch.equal(found["auto"], found[family])
    with SPARE(10, guidance="none")(setup.model):  # original positions need a cache
        without = setup.model.generate(**inputs, use_cache=False, max_new_tokens=3)
    with METHOD(setup.model):
        assert torch.equal(setup.model.generate(**inputs, max_new_tokens=3), without)
