"""What we rely on of transformers: in one file, under any name, and said plainly when unknown."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import warnings
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from sparevlm import hf
from sparevlm.hf import stock
from sparevlm.methods import SPARE, FastV, UniformGrid
from sparevlm.warning import warn
from tests.hf.conftest import ONE, calm
from tests.hf.test_inside import Stages
from tests.tiny import tiny_llava

ROOT = Path(__file__).parents[2]
INNER = {
    # caches
    "cache", "past_key_values", "get_seq_length", "get_query_offset", "get_mask_sizes",
    "is_compileable", "layers",
    # what goes into a model and what comes out
    "mm_encoder_outputs", "pooler_output", "deepstack_features", "hidden_states",
    "output_hidden_states", "last_hidden_state", "image_hidden_states",
    # encoders
    "get_image_features", "get_video_features", "pack_image_features", "image_newline",
    "image_size_to_num_patches", "image_grid_pinpoints", "_expand_multimodal_outputs",
    # positions
    "get_rope_index", "rope_deltas", "position_embeddings", "apply_rotary_pos_emb",
    # the decoder
    "get_decoder", "self_attn", "q_proj", "k_proj", "q_norm", "k_norm", "head_dim", "scaling",
    "attn_logit_softcapping", "_attn_implementation", "sliding_window", "layer_types",
    "input_layernorm", "post_feedforward_layernorm", "deepstack_visual_indexes",
    "num_hidden_layers",
}  # fmt: skip


def names(path: Path) -> set[str]:
    """Attributes, arguments and whole strings of a module; docstrings and sentences are none."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.Constant(value=str(name)):
                found.add(name)
    return found


def test_no_other_file_knows_stock_names():
    package = Path(hf.__file__).parents[1]
    own = package / "hf" / "stock.py"
    files = sorted((package / "hf").rglob("*.py"))
    assert own in files and len(files) > 20
    found = {path.name: sorted(names(path) & INNER) for path in files if path != own}
    assert {name: some for name, some in found.items() if some} == {}
    assert len(names(own) & INNER) > 30  # the search finds what is there


def test_nothing_at_all_reads_a_cache_by_a_name_of_its_own():
    package = Path(hf.__file__).parents[1]
    elsewhere = [path for path in package.rglob("*.py") if path.name != "stock.py"]
    elsewhere += (ROOT / "bench").rglob("*.py")
    assert [path for path in elsewhere if "past_key_values" in names(path)] == []


def test_the_tested_versions_are_those_that_are_installed_for_tests():
    pinned = re.search(r"(?m)^transformers==(\S+)$", (ROOT / "constraints.txt").read_text())
    oldest = re.search(r"(?m)^OLDEST \?= (\S+)$", (ROOT / "Makefile").read_text())
    assert pinned and pinned[1] == stock.NEWEST
    assert oldest and oldest[1] == stock.OLDEST
    bounds = re.search(r'"transformers>=(\S+),<(\S+)"', (ROOT / "pyproject.toml").read_text())
    assert bounds and f"{bounds[1]}.0" == stock.OLDEST and bounds[2] == "6"


@pytest.mark.parametrize("method", [SPARE(9, guidance="none"), FastV(0.4, layer=1, average=False)])
def test_nothing_is_deprecated(tiny, named, method, monkeypatch):
    """Neither by a warning nor by the logs of transformers, whatever name the user takes."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "handlers", [handler])
    logging.Logger.warning_once.cache_clear()
    inputs = tiny.inputs(ONE)
    with warnings.catch_warnings(), method(tiny.model):
        warnings.simplefilter("error")
        cache = DynamicCache()
        ids = tiny.model.generate(**inputs, **named(cache), max_new_tokens=3)
        more = torch.cat([ids, torch.tensor([[7, 8]])], 1)
        tiny.model.generate(input_ids=more, **named(cache), max_new_tokens=2)
        with torch.no_grad():
            tiny.model(**inputs, **named(DynamicCache()))
    assert [line for line in said if "deprecated" in line] == []


def refused(match, call, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", [SPARE(9, guidance="none"), FastV(0.4, layer=1, average=False)])
def test_a_cache_under_each_name_is_refused(tiny, method):
    inputs, cache = tiny.inputs(ONE), DynamicCache()
    both = {"cache": cache, "past_key_values": cache}
    with torch.no_grad(), method(tiny.model):
        expected = tiny.model(**inputs).logits
        for call in (tiny.model, tiny.model.generate):
            refused("cache and past_key_values were both given", call, **inputs, **both)
        refused("were both given", UniformGrid(3).prune_inputs, tiny.model, {**inputs, **both})
        assert cache.get_seq_length() == 0
        assert torch.equal(tiny.model(**inputs).logits, expected)


@pytest.mark.parametrize("method", [SPARE(9, guidance="none"), FastV(0.4, layer=1, average=False)])
def test_a_cache_of_another_model_is_refused(tiny, named, method):
    inputs = tiny.inputs(ONE)
    other = calm(tiny_llava())
    deeper = tiny_llava().config
    deeper.text_config.num_hidden_layers, deeper.text_config.layer_types = 3, None
    wider = tiny_llava().config
    wider.text_config.head_dim = 16
    for config, match in ((deeper, "layers: 3"), (wider, "keys of width")):
        model = calm(type(other)(config).double().eval())
        with torch.no_grad(), UniformGrid(9)(model):
            filled = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
        rest = {
            "input_ids": torch.cat([filled.sequences, torch.tensor([[7]])], 1),
            **named(filled.past_key_values),
        }
        with torch.no_grad(), method(tiny.model):
            expected = tiny.model(**inputs).logits
            for call in (tiny.model, tiny.model.generate):
                refused(f"cache is of another model .{match}", call, **rest)
            assert torch.equal(tiny.model(**inputs).logits, expected)


def test_what_is_no_cache_is_refused(tiny, named):
    inputs = tiny.inputs(ONE)
    with UniformGrid(9)(tiny.model):
        refused("must be a Cache of transformers, not tuple", tiny.model, **inputs, **named((1,)))


def test_a_transformers_too_old_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(stock, "installed", lambda: "5.17.2")
    for door in (
        UniformGrid(3).attach,
        lambda model: UniformGrid(3).prune_inputs(model, tiny.inputs(ONE)),
        lambda model: hf.preview(UniformGrid(3), model, tiny.inputs(ONE)),
    ):
        refused("transformers 5.17.2 is installed.*install transformers >= 5.18", door, tiny.model)


@pytest.mark.parametrize("version", ["5.25.0", "5.24.1", "5.24.1.dev0"])
def test_a_transformers_newer_than_tested_is_told_once(tiny, monkeypatch, version):
    monkeypatch.setattr(stock, "installed", lambda: version)
    monkeypatch.setattr(stock, "NEWEST", "5.24.0")
    monkeypatch.setattr(stock, "_warned", set())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with UniformGrid(3)(tiny.model):
                pass
            UniformGrid(3).prune_inputs(tiny.model, tiny.inputs(ONE))
    (warning,) = caught
    assert f"transformers {version} is newer than 5.24.0" in str(warning.message)
    assert warning.filename == __file__


@pytest.mark.parametrize("door", ["attach", "call", "prune_inputs", "preview"])
def test_warnings_name_the_users_line(tiny, monkeypatch, door):
    monkeypatch.setattr(stock, "installed", lambda: "6.0.0")
    monkeypatch.setattr(stock, "_warned", set())
    method, inputs = UniformGrid(3), tiny.inputs(ONE)
    with pytest.warns(UserWarning, match="newer than") as caught:
        if door == "attach":
            method.attach(tiny.model).detach()
        elif door == "call":
            method(tiny.model).detach()
        elif door == "prune_inputs":
            method.prune_inputs(tiny.model, inputs)
        else:
            hf.preview(method, tiny.model, inputs)
    assert caught[0].filename == __file__


def test_a_package_beside_torch_is_the_users_own():
    """Its folder begins with the name of one that calls come through."""
    place = f"{Path(torch.__file__).parent}vision/mine.py"
    with pytest.warns(UserWarning, match="see here") as caught:
        exec(compile("warn('see here')", place, "exec"), {"warn": warn})
    assert caught[0].filename == place


def test_a_layer_whose_cache_has_another_name(tiny, monkeypatch):
    """The sentence names both versions and what still works, and does not blame the model."""
    layer = type(tiny.model.base_model.get_decoder().layers[0])

    def forward(self, hidden_states, key_value_store=None, **kwargs):
        raise AssertionError("never run")

    inputs = tiny.inputs(ONE)
    with monkeypatch.context() as changed:
        changed.setattr(layer, "forward", forward)
        with pytest.raises(stock.UnknownShapeError) as caught:
            FastV(0.4, layer=1, average=False).attach(tiny.model)
    words = str(caught.value)
    assert f"transformers {stock.installed()} is installed" in words
    assert f"tested with {stock.OLDEST} to {stock.NEWEST}" in words
    assert "methods that prune before the decoder still work" in words and "\n" not in words
    assert "cannot be read" not in words
    with torch.no_grad(), SPARE(9, guidance="none")(tiny.model) as handle:
        tiny.model(**inputs)
    assert [one.after for one in handle.report] == [9]


def test_a_layer_that_leaves_the_cache_alone(tiny, monkeypatch):
    attention = type(tiny.model.base_model.get_decoder().layers[0].self_attn)
    true = attention.forward
    name = stock.cache_name(true)

    def forward(self, *args, **kwargs):
        return true(self, *args, **{**kwargs, name: None})

    monkeypatch.setattr(attention, "forward", forward)
    with FastV(0.4, layer=1, average=False)(tiny.model):
        refused("caches its keys in a way that cannot be read", tiny.model, **tiny.inputs(ONE))


def test_a_layer_whose_first_norm_has_another_name(tiny):
    layers = stock.layers_of(stock.decoder_of(tiny.model))
    norm = layers[1]._modules.pop("input_layernorm")
    method = Stages(0.4, asking="next", average=False)
    try:
        with pytest.raises(ValueError, match="LlamaDecoderLayer has no first norm of a name"):
            method.attach(tiny.model)
        FastV(0.4, layer=1, average=False).attach(tiny.model).detach()  # asks the layer before
    finally:
        layers[1].input_layernorm = norm


def test_an_attention_that_cannot_be_asked_beforehand(tiny, monkeypatch):
    attention = type(stock.attentions(stock.decoder_of(tiny.model))[1])
    true = attention.forward

    def forward(self, *args, **kwargs):
        if kwargs["hidden_states"].shape[1] == 1:
            raise TypeError("wants more")
        return true(self, *args, **kwargs)

    forward.__signature__ = inspect.signature(true)
    monkeypatch.setattr(attention, "forward", forward)
    with Stages(0.4, asking="next", average=False)(tiny.model):
        refused("in a way that cannot be read", tiny.model, **tiny.inputs(ONE))


def test_each_function_of_stock_is_used():
    package = Path(hf.__file__).parents[1]
    words = " ".join(
        path.read_text() for path in package.rglob("*.py") if path.name != "stock.py"
    ) + Path(stock.__file__).read_text().replace("def ", "def_")
    public = [name for name, _ in inspect.getmembers(stock, inspect.isfunction) if name[0] != "_"]
    own = [name for name in public if getattr(stock, name).__module__ == stock.__name__]
    assert len(own) > 20
    assert [name for name in own if not re.search(rf"\b{name}\b", words)] == []
