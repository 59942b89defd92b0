"""Settings of `generate` mean for a pruned prompt what they mean for the whole one.

Every step's scores are compared with those that the stock processors of an unpruned call give for
the user's prompt, the answer so far and the same logits.
"""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import CompileConfig, GenerationMixin, WatermarkingConfig

from sparevlm.methods import SPARE, FastV
from tests.hf.conftest import ONE, SHORT
from tests.test_templates import chatml, tokenizer_of

REPEATS = "USER: red star <image>\nblue circle red star ASSISTANT:"
SETTINGS = {
    "repetition_penalty": 1.7,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "bad_words_ids": [[40], [41, 42]],
    "sequence_bias": {(43,): 3.0, (44, 45): -4.0},
    "suppress_tokens": [46, 47],
    "begin_suppress_tokens": [48, 49],
    "exponential_decay_length_penalty": (2, 1.5),
    "forced_eos_token_id": 50,
    "min_new_tokens": 3,
    "guidance_scale": 1.6,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "temperature": 0.7,
    "top_k": 9,
    "top_p": 0.8,
    "min_p": 0.05,
    "top_h": 0.4,
    "forced_bos_token_id": 51,
    "watermarking_config": WatermarkingConfig(),
    "typical_p": 0.7,
    "epsilon_cutoff": 1e-3,
    "eta_cutoff": 1e-3,
}
SAMPLED = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
           "top_h"}  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """The processors of each call, made anew: lists of a call's, by call."""
    calls = []
    stock = GenerationMixin._get_logits_processor

    def get(self, *args, **kwargs):
        calls.append(lambda: stock(self, *args, **kwargs))
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(GenerationMixin, "_get_logits_processor", get)
    return calls


@pytest.mark.parametrize("method", [SPARE(1, guidance="none"), FastV(0.5, layer=1, average=False)],
                         ids=["before", "inside"])  # fmt: skip
@pytest.mark.parametrize("name", SETTINGS)
def test_scores(pocket, made, name, method):
    inputs = pocket.inputs(REPEATS, SHORT)
    ids = inputs["input_ids"]
    options = {"do_sample": name in SAMPLED, "max_new_tokens": 5, name: SETTINGS[name]}
    pocket.model.generate(**inputs, **options)
    whole = made[-1]()
    with method(pocket.model):
        out = pocket.model.generate(
            **inputs,
            **options,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for step, (scores, logits) in enumerate(zip(out.scores, out.logits, strict=True)):
        expected = whole(out.sequences[:, : ids.shape[1] + step], logits.clone())
        torch.testing.assert_close(scores, expected.to(scores), rtol=1e-5, atol=1e-5)
    assert torch.equal(out.sequences[:, : ids.shape[1]], ids)


def test_a_negative_prompt(setup, made):
    inputs = setup.inputs(ONE)
    options = {"do_sample": False, "max_new_tokens": 4, "guidance_scale": 1.6,
               "negative_prompt_ids": setup.ids("no star")}  # fmt: skip
    setup.model.generate(**inputs, **options)
    whole = made[-1]()
    with SPARE(10, guidance="none")(setup.model):
        out = setup.model.generate(
            **inputs,
            **options,
            output_scores=True,
            output_logits=True,
            return_dict_in_generate=True,
        )
    for step, (scores, logits) in enumerate(zip(out.scores, out.logits, strict=True)):
        expected = whole(out.sequences[:, : inputs["input_ids"].shape[1] + step], logits.clone())
        torch.testing.assert_close(scores, expected.to(scores), rtol=1e-5, atol=1e-5)


LOOKUP = "USER: <image>\nred star red star red circle red star red"
SEARCHES = {
    "length_penalty": {"num_beams": 3, "length_penalty": 2.5},
    "early_stopping": {"num_beams": 3, "early_stopping": True, "num_return_sequences": 2},
    "never early": {"num_beams": 2, "early_stopping": "never"},
    "static": {"cache_implementation": "static", "max_cache_len": 400, "disable_compile": True},
    "compiled": {"compile_config": CompileConfig(backend="eager")},
    "lookup": {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 2},
    "assisted": {"num_assistant_tokens": 3, "num_assistant_tokens_schedule": "constant",
                 "assistant_confidence_threshold": 0.3, "assistant_model": None},
    "negative": {"guidance_scale": 1.4, "negative_prompt_ids": torch.tensor([[20, 21]]),
                 "negative_prompt_attention_mask": torch.ones(1, 2, dtype=torch.long)},
}  # fmt: skip


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_and_caches(setup, name):
    """As of the model without pruning attached, from inputs that were pruned before."""
    # For lookup the words at the end came before; else stock may propose placeholders.
    inputs = setup.inputs(LOOKUP if name == "lookup" else ONE)
    options = {"do_sample": False, "max_new_tokens": 5} | SEARCHES[name]
    if "assistant_model" in options:
        options["assistant_model"] = copy.deepcopy(setup.model)
    method = SPARE(10, guidance="none", positions="compact")
    with torch.no_grad():
        shorter = method.prune_inputs(setup.model, inputs)
    expected = setup.model.generate(**shorter, **options)[:, shorter["input_ids"].shape[1] :]
    if "assistant_model" in options:
        options["assistant_model"] = copy.deepcopy(setup.model)
    with method(setup.model):
        found = setup.model.generate(**inputs, **options)
    assert torch.equal(found[:, inputs["input_ids"].shape[1] :], expected)


def test_stop_strings(setup):
    """By a tokenizer of bytes: stock cannot find strings in one of words."""
    inputs = setup.inputs(ONE, SHORT)
    length = inputs["input_ids"].shape[1]
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    tokenizer = tokenizer_of(chatml)
    if setup.name == "tiny":
        options["suppress_tokens"] = [*range(128, 281), 2]  # halves of characters
    with SPARE(10, guidance="none")(setup.model):
        plain = setup.model.generate(**inputs, **options)
        byte = tokenizer.decode([int(plain[0, length])])
        out = setup.model.generate(**inputs, **options, stop_strings=[byte], tokenizer=tokenizer)
    assert out[0, length] == plain[0, length]
    assert bool((out[0, length + 1 :] == setup.model.generation_config.pad_token_id).all())


def test_max_time(setup):
    inputs = setup.inputs(ONE)
    with SPARE(10, guidance="none")(setup.model):
        out = setup.model.generate(**inputs, max_new_tokens=50, min_new_tokens=50, max_time=1e-9)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 1
