"""The user's model is left as it was."""

from __future__ import annotations

import copy
import gc
import inspect
import threading
import weakref

import pytest
import torch

from sparevlm.methods import SPARE, UniformGrid
from tests.hf.conftest import ONE, SHORT


def state(model):
    """Everything that pruning might leave behind."""
    return [
        (
            name,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            sorted(module.__dict__),
            len(getattr(module, "_forward_hooks_with_kwargs", ())),
        )
        for name, module in model.named_modules()
    ] + [model.config.to_dict(), model.generation_config.to_dict()]


@pytest.fixture
def used(tiny):
    """A model after a call, since transformers sets up its own capturing lazily."""
    tiny.model.generate(**tiny.inputs(ONE), max_new_tokens=1)
    tiny.model(**tiny.inputs(ONE))
    return tiny


def test_after_a_block(used):
    before = state(used.model)
    with SPARE(5, guidance="none")(used.model):
        assert state(used.model) != before
        used.model.generate(**used.inputs(ONE), max_new_tokens=2)
        used.model(**used.inputs(ONE))
    assert state(used.model) == before


def test_after_detach_and_detach_again(used):
    before = state(used.model)
    handle = SPARE(5, guidance="none").attach(used.model)
    used.model.generate(**used.inputs(ONE), max_new_tokens=2)
    handle.detach()
    handle.detach()
    assert state(used.model) == before
    assert handle.report[0].after == 5


def test_after_an_exception_in_the_block(used):
    before = state(used.model)
    with pytest.raises(RuntimeError, match="mine"), UniformGrid(5)(used.model):
        raise RuntimeError("mine")
    assert state(used.model) == before


def test_after_an_exception_within_generate(used):
    before, inputs = state(used.model), used.inputs(ONE)

    def fail(*_):
        raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"), UniformGrid(5)(used.model):
        used.model.generate(**inputs, max_new_tokens=2, prefix_allowed_tokens_fn=fail)
    assert state(used.model) == before
    used.model.generate(**inputs, max_new_tokens=2)


def test_a_failed_call_does_not_spoil_the_next(used):
    inputs = used.inputs(ONE)
    with UniformGrid(5)(used.model):
        expected = used.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        wrong = dict(inputs, pixel_values=inputs["pixel_values"].repeat(2, 1, 1, 1))
        with pytest.raises(ValueError, match="placeholders"):
            used.model.generate(**wrong, max_new_tokens=3)
        with pytest.raises(ValueError, match="placeholders"):
            used.model(**wrong)
        found = used.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert torch.equal(found, expected)


def test_a_refused_attachment_leaves_nothing(used):
    before = state(used.model)
    with pytest.raises(ValueError, match="relevance"):
        SPARE(5).attach(used.model, relevance="magic")
    with pytest.raises(ValueError):
        SPARE(5).attach(used.model, relevance="clip")
    assert state(used.model) == before


def test_nested_pruning_is_refused(used):
    with UniformGrid(5)(used.model):
        with pytest.raises(ValueError, match="already pruned by UniformGrid"):
            SPARE(5, guidance="none").attach(used.model)
        used.model.generate(**used.inputs(ONE), max_new_tokens=1)
    with SPARE(5, guidance="none")(used.model) as handle:
        used.model.generate(**used.inputs(ONE), max_new_tokens=1)
    assert handle.report[0].after == 5


def test_a_wrapped_generate_comes_back(used):
    stock = used.model.generate
    used.model.generate = wrapped = lambda **kwargs: stock(**kwargs)
    with UniformGrid(5)(used.model) as handle:
        used.model.generate(**used.inputs(ONE), max_new_tokens=1)
    assert used.model.generate is wrapped and handle.report[0].after == 5


def test_arguments_are_not_changed(used):
    inputs = used.inputs(ONE, SHORT)
    before = {name: value.clone() for name, value in inputs.items()}
    with UniformGrid(5)(used.model):
        used.model.generate(**inputs, max_new_tokens=1)
        used.model(**inputs)
    assert list(inputs) == list(before)
    for name, value in before.items():
        assert torch.equal(inputs[name], value)


def test_threads_do_not_disturb_each_other(used):
    prompts = [used.inputs(ONE), used.inputs(SHORT, first=5)]
    with UniformGrid(5)(used.model):
        expected = [used.model.generate(**p, max_new_tokens=4, do_sample=False) for p in prompts]
        found = [None, None]

        def work(i):
            for _ in range(3):
                found[i] = used.model.generate(**prompts[i], max_new_tokens=4, do_sample=False)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_a_forgotten_handle_does_not_keep_the_model(tiny):
    model = copy.deepcopy(tiny.model)
    SPARE(5, guidance="none").attach(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_wrapped_generate_has_the_stock_signature(tiny):
    expected = inspect.signature(tiny.model.generate)
    with UniformGrid(5)(tiny.model):
        assert inspect.signature(tiny.model.generate) == expected
