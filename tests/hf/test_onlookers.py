"""What looks on while an answer grows is given the user's prompt, not the pruned one."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MaxLengthCriteria,
    MinLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
)

from sparevlm.methods import SPARE, FastV, NoImage, Staged
from tests.hf.conftest import ONE, SHORT, TWO

BEFORE = SPARE(10, guidance="none")
METHODS = [
    BEFORE,
    FastV(0.5, layer=1, average=False),
    Staged(SPARE(20, guidance="none"), FastV(0.5, layer=1, average=False)),
]
FORMS = [{}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}]


class Watch(LogitsProcessor):
    """Notes what it is shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, input_ids, scores):
        self.seen.append(input_ids.clone())
        return scores


class Stop(StoppingCriteria):
    """Stops a row at a word, or all `most` tokens after a prompt of `length`."""

    def __init__(self, word=-1, length=0, most=10**6):
        self.word, self.length, self.most, self.seen = word, length, most, []

    def __call__(self, input_ids, scores, **kwargs):
        self.seen.append(input_ids.clone())
        if input_ids.shape[1] - self.length >= self.most:
            return torch.ones(len(input_ids), dtype=torch.bool)
        return input_ids[:, -1] == self.word


@pytest.mark.parametrize("form", FORMS, ids=["greedy", "beams", "sampled"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_they_see_the_users_prompt(setup, method, form):
    inputs = setup.inputs(TWO, SHORT)
    watch, stop = Watch(), Stop()
    with method(setup.model):
        out = setup.model.generate(
            **inputs, **{"do_sample": False} | form, max_new_tokens=4, min_new_tokens=4,
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=StoppingCriteriaList([stop]),
        )  # fmt: skip
    length = inputs["input_ids"].shape[1]
    for i, seen in enumerate(watch.seen):
        each = len(seen) // 2
        assert seen.shape[1] == length + i
        assert torch.equal(seen[:, :length], inputs["input_ids"].repeat_interleave(each, 0))
    assert [seen.shape[1] for seen in stop.seen] == [length + 1 + i for i in range(4)]
    if not form:
        assert torch.equal(stop.seen[-1], out)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_at_most_three_new_tokens_by_the_prompts_length(setup, method):
    inputs = setup.inputs(ONE, SHORT)
    length = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 12, "min_new_tokens": 15, "do_sample": False}
    by_hand = StoppingCriteriaList([Stop(length=length, most=3)])
    own = StoppingCriteriaList([MaxLengthCriteria(length + 3)])
    with method(setup.model):
        for criteria in (by_hand, own):
            out = setup.model.generate(**inputs, **options, stopping_criteria=criteria)
            assert out.shape[1] == length + 3
        longer = StoppingCriteriaList([MaxLengthCriteria(length + 15)])  # stock: the user's counts
        out = setup.model.generate(**inputs, **options, stopping_criteria=longer)
    assert out.shape[1] == length + 15 and own[0].max_length == length + 3


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_stop_word_of_one_row(setup, method):
    inputs = setup.inputs(ONE, SHORT)
    length = inputs["input_ids"].shape[1]
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with method(setup.model):
        plain = setup.model.generate(**inputs, **options)
        word = int(plain[0, length])
        out = setup.model.generate(
            **inputs, **options, stopping_criteria=StoppingCriteriaList([Stop(word)])
        )
    assert int(out[0, length]) == word
    assert bool((out[0, length + 1 :] == setup.model.generation_config.pad_token_id).all())


@pytest.mark.parametrize("form", FORMS[:2], ids=["greedy", "beams"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_structured_output(setup, method, form):
    """A grammar that counts from the end of the user's prompt: two words, then the end."""
    inputs = setup.inputs(ONE, SHORT)
    length, ids = inputs["input_ids"].shape[1], inputs["input_ids"]
    words = setup.ids("red blue star")[0].tolist()

    def allowed(row, sequence):
        assert torch.equal(sequence[:length], ids[row])
        return [words[len(sequence) - length]]

    with method(setup.model):
        out = setup.model.generate(
            **inputs, **form, do_sample=False, max_new_tokens=3, prefix_allowed_tokens_fn=allowed
        )
    assert out[:, length:].tolist() == [words, words]


def test_stock_processors_of_the_user_replace_those_of_generate(setup):
    inputs = setup.inputs(ONE)
    length = inputs["input_ids"].shape[1]
    config = setup.model.generation_config
    eos = torch.tensor([config.eos_token_id])
    if int(eos[0]) >= setup.model.config.get_text_config().vocab_size:
        pytest.skip("never ends")
    force = LogitsProcessorList([MinLengthLogitsProcessor(length + 6, eos)])
    with BEFORE(setup.model):
        out = setup.model.generate(
            **inputs, do_sample=False, max_new_tokens=9, logits_processor=force
        )
    assert out.shape[1] >= length + 6


def test_n_grams_of_the_users_prompt_do_not_repeat(setup):
    """As without pruning, also across a picture of which one token is left."""
    inputs = setup.inputs("USER: red star <image>\nblue circle red star ASSISTANT:")
    length = inputs["input_ids"].shape[1]
    stock = NoRepeatNGramLogitsProcessor(2)
    watch = Watch()
    with SPARE(1, guidance="none")(setup.model):
        out = setup.model.generate(
            **inputs, do_sample=False, max_new_tokens=6, no_repeat_ngram_size=2,
            encoder_no_repeat_ngram_size=2, encoder_repetition_penalty=1.3,
            logits_processor=LogitsProcessorList([watch]),
        )  # fmt: skip
    for step in range(out.shape[1] - length):
        scores = stock(out[:, : length + step], torch.zeros(1, 10**4))
        assert scores[0, out[0, length + step]] == 0


def test_a_criterion_keeps_its_attributes_and_the_model_is_left_as_it_was(setup):
    inputs = setup.inputs(ONE)
    before = dict(vars(setup.model))
    with BEFORE(setup.model):
        with pytest.raises(ZeroDivisionError):
            setup.model.generate(
                **inputs, max_new_tokens=2,
                stopping_criteria=StoppingCriteriaList([lambda ids, scores, **more: 1 / 0]),
            )  # fmt: skip
        assert setup.model.generate(**inputs, max_new_tokens=2).shape[0] == 1
    assert vars(setup.model).keys() == before.keys()


@pytest.mark.parametrize("how", ["generate", "forward"])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_they_may_call_the_model(setup, method, how):
    """Such a call is pruned by itself, sees its own prompt, and leaves the outer one alone."""
    inputs, other = setup.inputs(ONE, SHORT), setup.inputs(TWO, first=5)
    options = {"do_sample": False, "max_new_tokens": 4, "min_new_tokens": 4}
    got = []

    def call():
        if how == "forward":
            return setup.model(**other).logits
        watch = Stop()
        found = setup.model.generate(
            **other, **options, stopping_criteria=StoppingCriteriaList([watch])
        )
        assert watch.seen[0].shape[1] == other["input_ids"].shape[1] + 1
        return found

    def look(ids, scores, **more):
        if not got:
            got.append(call())
        return torch.zeros(len(ids), dtype=torch.bool)

    with torch.no_grad(), method(setup.model) as handle:
        alone, plain = call(), setup.model.generate(**inputs, **options)
        report = [(one.before, one.indices.tolist()) for one in handle.report]
        out = setup.model.generate(
            **inputs, **options, stopping_criteria=StoppingCriteriaList([look])
        )
        assert [(one.before, one.indices.tolist()) for one in handle.report] == report
    assert torch.equal(got[0], alone) and torch.equal(out, plain)


def test_the_end_of_a_prompt_that_is_a_picture(setup):
    """Of which nothing is left: what looks at the words before sees the user's."""
    inputs = setup.inputs("USER: what is it red <image>")
    red = setup.ids("red")[0].tolist()
    options = {"do_sample": False, "max_new_tokens": 3}
    with NoImage(1)(setup.model):
        plain = setup.model.generate(**inputs, **options)
        length = inputs["input_ids"].shape[1]
        banned = [[*red, int(plain[0, length])]]
        found = setup.model.generate(**inputs, **options, bad_words_ids=banned)
    assert torch.equal(found[:, : length + 1], plain[:, : length + 1])
