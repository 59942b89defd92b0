"""The whole registry through the mechanism: batches, generate, forward, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

from sparevlm.methods import get_method, list_methods, method_class
from sparevlm.pocket.model import make_processor
from sparevlm.relevance import ClipScorer
from tests.hf.conftest import ONE, SHORT, TWO
from tests.hf.test_capture import siglip_llava
from tests.tiny import tiny_clip

every = pytest.mark.parametrize("name", list_methods())
KEEP = 9


def options(setup):
    """What a random model lacks: a CLIP, and a tokenizer."""
    if setup.name == "pocket":
        return {}
    clip = ClipScorer(tiny_clip(), setup.processor.tokenizer)
    return {"clip": clip, "tokenizer": setup.processor.tokenizer}


def make(name):
    return get_method(name, KEEP, **({"directions": 3} if name == "zoo-prune" else {}))


def kept(name):
    return 0 if name == "no-image" else KEEP


@every
def test_generate_in_a_batch_equals_one_by_one(setup, name):
    prompts, method = (TWO, SHORT), make(name)
    settings = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    with method.attach(setup.model, **options(setup)) as handle:
        both = setup.model.generate(**setup.inputs(*prompts), **settings)
        report = handle.report
        assert [picture.after for picture in report] == [kept(name)] * 3
        assert all(picture.before == 196 for picture in report)
        assert all(0 <= picture.residual <= 1 for picture in report)
        found, first = [], 0
        for row, prompt in enumerate(prompts):
            one = setup.inputs(prompt, first=first)
            first += prompt.count("<image>")
            alone = setup.model.generate(**one, **settings)
            new = alone[0, one["input_ids"].shape[1] :]
            assert len(new) == 6 and torch.equal(both[row, -6:], new)
            found += handle.report
    for picture, single in zip(report, found, strict=True):
        assert torch.equal(picture.indices, single.indices)


@every
def test_forward_is_pruned_in_full(setup, name):
    inputs = setup.inputs(ONE)
    with torch.no_grad(), make(name).attach(setup.model, **options(setup)):
        out = setup.model(**inputs)
    assert out.logits.shape[1] == inputs["input_ids"].shape[1] - 196 + kept(name)
    assert out.logits.isfinite().all()


@every
def test_a_tower_without_a_class_token(name):
    model, tokenizer = siglip_llava(), make_processor().tokenizer
    image = model.config.image_token_id
    inputs = {
        "input_ids": torch.tensor([[5, *[image] * 16, 6, 7]]),
        "pixel_values": torch.randn(1, 3, 56, 56, dtype=torch.float64),
    }
    given = {"relevance": "llm", "tokenizer": tokenizer, "question": "count the digits ."}
    with torch.no_grad(), make(name).attach(model, **given) as handle:
        assert model(**inputs).logits.shape[1] == 3 + kept(name)
        assert [picture.after for picture in handle.report] == [kept(name)]


@pytest.mark.parametrize("name", sorted(set(list_methods()) - {"no-image"}))
def test_keep_all_is_bit_identical(setup, name):
    inputs = setup.inputs(ONE, SHORT)
    with torch.no_grad():
        expected = setup.model(**inputs).logits
        with get_method(name, 1.0).attach(setup.model, **options(setup)):
            assert torch.equal(setup.model(**inputs).logits, expected)


@every
def test_nothing_is_left_behind(setup, name):
    with torch.no_grad():
        setup.model(**setup.inputs(ONE))  # transformers registers hooks of its own at first
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in setup.model.modules()]
    implementation = setup.model.config.vision_config._attn_implementation
    with torch.no_grad(), make(name).attach(setup.model, **options(setup)):
        setup.model(**setup.inputs(ONE))
        assert setup.model.config.vision_config._attn_implementation == implementation
    assert hooks == [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in setup.model.modules()
    ]


def test_merged_rows_reach_the_model(setup):
    """With all positions equal, merging is all that tells two methods apart."""
    inputs = setup.inputs(ONE)
    pool = get_method("average-pool", KEEP, positions="compact")
    grid = get_method("uniform", KEEP, positions="compact")
    features = setup.model.get_image_features(inputs["pixel_values"], return_dict=True)
    rows = features.pooler_output[0].detach()
    with torch.no_grad():
        given = pool.prune_inputs(setup.model, inputs)["mm_encoder_outputs"]["image"].pooler_output
        plain = grid.prune_inputs(setup.model, inputs)["mm_encoder_outputs"]["image"].pooler_output
    assert given[0].shape == plain[0].shape == (KEEP, rows.shape[1])
    squares = rows.view(14, 14, -1)
    # the first of 3 x 3 cells: middles 2, 7, 11 in both directions
    torch.testing.assert_close(given[0][0], squares[:5, :5].mean((0, 1)))
    torch.testing.assert_close(plain[0][0], squares[2, 2])


def test_a_budget_of_the_whole_prompt(setup):
    for name in ("visionzip", "fastervlm", "mmtok", "apet"):
        method = get_method(name, 20, per="prompt")
        with torch.no_grad(), method.attach(setup.model, **options(setup)) as handle:
            setup.model(**setup.inputs(TWO))
            assert [picture.after for picture in handle.report] == [20]
    with (
        torch.no_grad(),
        get_method("downsample", 20, per="prompt").attach(setup.model),
        pytest.raises(ValueError, match="each picture by itself"),
    ):
        setup.model(**setup.inputs(TWO))


def test_needs_are_what_is_computed():
    for name in list_methods():
        cls = method_class(name)
        if "encoder_attention" in cls.needs:
            assert cls(3).attention_of
