"""Models inside wrappers: adapters of peft, DistributedDataParallel, torch.compile."""

from __future__ import annotations

import importlib.metadata
import warnings

import peft
import pytest
import torch
from torch import distributed, nn

from sparevlm.hf import preview
from sparevlm.methods import SPARE, FastV
from tests.hf.conftest import ONE, SHORT
from tests.training.common import gradients, same_gradients, tiny, with_lora

METHOD = SPARE(10, guidance="none")
METHODS = [METHOD, FastV(0.5, layer=1, average=False)]


@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_peft_model(task, method):
    setup = tiny()
    inputs = setup.inputs(ONE, SHORT)
    model = with_lora(setup.model, task)
    options = {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad(), method(setup.model):
        logits, answer = setup.model(**inputs).logits, setup.model.generate(**inputs, **options)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for wrapper in (model, model.base_model):
            with method(wrapper) as handle:
                assert handle.model is setup.model
                assert torch.equal(model(**inputs).logits, logits)
                assert torch.equal(model.base_model(**inputs).logits, logits)
                assert torch.equal(model.generate(**inputs, **options), answer)
                assert len(handle.report) == 2
    shorter = METHOD.prune_inputs(model, inputs)
    assert shorter["input_ids"].shape[1] < inputs["input_ids"].shape[1]
    assert [one.after for one in preview(METHOD, model, inputs)] == [10, 10]


def test_an_adapter_that_is_switched_off():
    setup = tiny()
    inputs = setup.inputs(ONE)
    with torch.no_grad(), METHOD(setup.model):
        plain = setup.model(**inputs).logits
    model = with_lora(setup.model)
    with torch.no_grad(), METHOD(model):
        assert not torch.allclose(model(**inputs).logits, plain)
        with model.disable_adapter():
            torch.testing.assert_close(model(**inputs).logits, plain)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_gradients_with_checkpointing(method):
    setup = tiny()
    inputs = setup.inputs(ONE, SHORT, side="right")
    model = with_lora(setup.model).train()
    with method(model):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        expected = gradients(model)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    same_gradients(gradients(model), expected)


def test_an_older_peft_that_goes_round_hooks(monkeypatch):
    """peft 0.20 does for adapters with a task type; tried with it, see docs."""
    model = with_lora(tiny().model)
    true = importlib.metadata.version
    monkeypatch.setattr(
        "sparevlm.hf.wrapped.version", lambda name: "0.20.0" if name == "peft" else true(name)
    )
    with pytest.warns(UserWarning, match=r"peft 0\.20\.0 calls the forward of its base model past"):
        METHOD(model).detach()
    with pytest.warns(UserWarning, match=r"install peft >= 0\.21, or call get_base_model"):
        METHOD(model.get_base_model()).detach()
    assert int(peft.__version__.split(".")[1]) >= 21


def test_transformers_own_adapters_are_called_with_hooks(monkeypatch):
    setup = tiny()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["q_proj"]), setup.model)
    setup.model._hf_peft_config_loaded = True  # as add_adapter of transformers marks it
    monkeypatch.setattr("sparevlm.hf.wrapped.version", lambda name: "0.20.0")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        with METHOD(setup.model):
            inputs = setup.inputs(ONE)
            short = setup.model(**inputs).logits.shape[1]
    assert short < inputs["input_ids"].shape[1]


def test_distributed(tmp_path):
    setup = tiny()
    inputs = setup.inputs(ONE)
    distributed.init_process_group("gloo", store=distributed.FileStore(str(tmp_path / "s"), 1),
                                   rank=0, world_size=1)  # fmt: skip
    try:
        inner = with_lora(setup.model)
        with METHOD(inner):
            inner(**inputs, labels=inputs["input_ids"]).loss.backward()
        expected = gradients(inner)
        model = nn.parallel.DistributedDataParallel(inner)
        with METHOD(model) as handle:
            assert handle.model is setup.model
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
        same_gradients(gradients(inner), expected)
    finally:
        distributed.destroy_process_group()


def test_wrappers_that_run_no_hooks():
    setup = tiny()
    with pytest.raises(ValueError, match=r"^DataParallel runs copies .* its \.module and use"):
        METHOD(nn.DataParallel(setup.model))
    compiled = torch.compile(setup.model, backend="eager")
    with pytest.raises(ValueError, match=r"^OptimizedModule is a model after torch\.compile"):
        METHOD(compiled)
    with pytest.raises(ValueError, match=r"^OptimizedModule is a model after torch\.compile"):
        METHOD.prune_inputs(compiled, setup.inputs(ONE))


def test_compiled_after_attaching():
    setup = tiny()
    inputs = setup.inputs(ONE)
    with torch.no_grad(), METHOD(setup.model):
        expected = setup.model(**inputs).logits
        found = torch.compile(setup.model, backend="eager")(**inputs).logits
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected)
