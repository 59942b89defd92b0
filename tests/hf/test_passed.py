"""What was passed beside a prompt: it has its pruned meaning, or is refused before encoding."""

from __future__ import annotations

import inspect
import warnings
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from sparevlm.methods import SPARE, FastV, Staged, UniformGrid
from tests.families.matrix import made
from tests.hf.conftest import ONE, SHORT

METHODS = [
    SPARE(10, guidance="none"),
    FastV(0.5, layer=1, average=False),
    Staged(SPARE(20, guidance="none"), FastV(0.5, layer=1, average=False)),
]


@pytest.fixture(params=METHODS, ids=lambda m: type(m).__name__)
def attached(request, setup):
    """A pruned model that must not encode, until `free` is called; and usable afterwards."""
    inputs = setup.inputs(ONE, SHORT)
    tower = setup.model.model.vision_tower
    runs = []
    hook = tower.register_forward_pre_hook(lambda *_: runs.append(1))
    with torch.no_grad(), request.param(setup.model) as handle:
        yield SimpleNamespace(setup=setup, model=setup.model, inputs=inputs, handle=handle)
        assert not runs, "the picture was encoded first"
        assert setup.model(**inputs).logits.shape[0] == 2
        assert len(handle.report) == 2
    hook.remove()


def tensors(rows, length):
    """Arguments that stock does not know, with an axis for the prompt, and names for the cases."""
    return {
        "loss_weights": torch.ones(rows, length),
        "per_layer_inputs": torch.ones(rows, length, 2, 3),
        "cache_position": torch.arange(length),
        "bias": torch.zeros(rows, 1, length, length),
        "special_tokens_mask": torch.zeros(1, length, dtype=torch.bool),
    }


@pytest.mark.parametrize("name", tensors(1, 1))
def test_an_unknown_tensor_along_the_prompt(attached, name):
    value = tensors(*attached.inputs["input_ids"].shape)[name]
    with pytest.raises(ValueError, match=rf"^{name} has an entry for each of the prompt's \d+ tok"):
        attached.model(**attached.inputs, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cu_seq_lens_q", torch.tensor([0, 5, 9])),
        ("cu_seq_lens_k", torch.tensor([0, 5, 9])),
        ("max_length_q", 5),
        ("max_length_k", 5),
        ("seq_idx", torch.zeros(2, 9)),
    ],
    ids=["q", "k", "longest q", "longest k", "index"],
)
def test_packed_by_lengths(attached, name, value):
    with pytest.raises(ValueError, match=f"^{name} was given: samples packed into one row"):
        attached.model(**attached.inputs, **{name: value})


def test_packed_by_positions(attached):
    inputs = {k: v[:1] for k, v in attached.inputs.items() if k != "attention_mask"}
    length = inputs["input_ids"].shape[1]
    packed = torch.cat([torch.arange(length - 6), torch.arange(6)])[None]
    with pytest.raises(ValueError, match=r"^position_ids do not count up by one .* row of its own"):
        attached.model(**inputs, position_ids=packed)


@pytest.mark.parametrize("name", ["labels", "shift_labels", "attention_mask", "token_type_ids"])
def test_a_tensor_of_another_length(attached, name):
    ids = attached.inputs["input_ids"]
    with pytest.raises(ValueError, match=rf"^{name} has the shape \[2, {ids.shape[1] - 1}\] and"):
        attached.model(**attached.inputs | {name: torch.ones_like(ids)[:, 1:]})


def test_positions_of_another_length(attached):
    ids = attached.inputs["input_ids"]
    for shape in [(2, 5), (5,), (2, 2, ids.shape[1]), (3, *ids.shape)]:
        with pytest.raises(ValueError, match=r"^position_ids has the shape"):
            attached.model(**attached.inputs, position_ids=torch.zeros(shape, dtype=torch.long))


def test_generate(attached):
    with pytest.raises(ValueError, match=r"^custom_generate would see the pruned prompt"):
        attached.model.generate(**attached.inputs, custom_generate=lambda *a, **k: None)
    with pytest.raises(ValueError, match=r"^token_healing writes the prompt anew"):
        attached.model.generate(**attached.inputs, token_healing=True)


def test_generate_in_a_later_turn(setup):
    """Whose prompt is words, behind a picture that was pruned."""
    inputs = setup.inputs(ONE)
    with METHODS[0](setup.model):
        first = setup.model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
        ids = torch.cat([first.sequences, setup.ids("is it red ?")], 1)
        turn = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "past_key_values": first.get("cache") or first.get("past_key_values"),
        }
        with pytest.raises(ValueError, match=r"^custom_generate would see the pruned prompt"):
            setup.model.generate(**turn, custom_generate=lambda *a, **k: None)
        assert setup.model.generate(**turn, max_new_tokens=2).shape[1] > ids.shape[1]


def test_what_has_no_axis_of_the_prompt_passes(setup):
    inputs = setup.inputs(ONE, SHORT)
    with torch.no_grad(), METHODS[0](setup.model):
        plain = setup.model(**inputs).logits
        more = {
            "output_router_logits": False,
            "scale": torch.tensor(7.0),
            "sizes": torch.ones(2, 3),
        }
        assert torch.equal(setup.model(**inputs, **more).logits, plain)


def test_what_drops_nothing_refuses_nothing(setup):
    inputs = setup.inputs(ONE)
    weights = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        expected = setup.model(**inputs).logits
        with UniformGrid(1.0)(setup.model):
            found = setup.model(**inputs, loss_weights=weights).logits
    assert torch.equal(found, expected)


def test_a_later_turn(setup):
    """The cache holds a pruned prompt: what counts columns does not fit there either."""
    inputs = setup.inputs(ONE)
    with torch.no_grad(), METHODS[0](setup.model):
        first = setup.model(**inputs, use_cache=True)
        more = setup.ids("is it red ?")
        cache = {"cache": first.get("cache", None) or first.get("past_key_values")}
        with pytest.raises(ValueError, match=r"^weights has an entry for each"):
            setup.model(input_ids=more, **cache, weights=torch.ones(more.shape))


@pytest.mark.parametrize("text", [False, True], ids=["axes", "with text row"])
def test_positions_of_several_axes(text):
    """Given as the model makes them, or with a row for text in front, they change nothing."""
    family = made("qwen2_5_vl")
    inputs = family.inputs("user : <image> what color is the star ? assistant :")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    axes, _ = family.model.model.get_rope_index(
        ids, mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"], attention_mask=mask,
    )  # fmt: skip
    if text:
        axes = torch.cat([torch.arange(ids.shape[1]).expand(1, *ids.shape), axes])
    with torch.no_grad(), SPARE(5, guidance="none")(family.model):
        expected = family.model(**inputs).logits
        assert torch.equal(family.model(**inputs, position_ids=axes).logits, expected)
        packed = inputs | {"position_ids": axes.clone()}
        if text:
            packed.pop("attention_mask")
            packed["position_ids"][0, :, -4:] = torch.arange(4)
            with pytest.raises(ValueError, match="packed samples"):
                family.model(**packed)


def test_plain_positions_of_a_model_with_several_axes():
    """[B, L] stands for all axes alike."""
    family = made("qwen2_5_vl")
    inputs = family.inputs("user : <image> what color is the star ? assistant :")
    plain = torch.arange(inputs["input_ids"].shape[1])[None]
    with torch.no_grad(), SPARE(5, guidance="none")(family.model):
        same = family.model(**inputs, position_ids=plain.expand(3, 1, -1)).logits
        assert torch.equal(family.model(**inputs, position_ids=plain).logits, same)


def test_a_qwen_without_token_types():
    """Stock then places a picture as text, without a word; the pruned call does not."""
    family = made("qwen2_5_vl")
    inputs = family.inputs("user : <image> what color is the star ? assistant :")
    less = {name: value for name, value in inputs.items() if name != "mm_token_type_ids"}
    with torch.no_grad(), SPARE(5, guidance="none")(family.model):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expected = family.model(**inputs).logits
        with pytest.warns(UserWarning, match=r"^mm_token_type_ids was not given: Qwen2.5-VL is"):
            assert torch.equal(family.model(**less).logits, expected)


def test_router_logits():
    """Of a mixture of experts: of the shorter prompt, or refused inside the language model."""
    family = made("glm4v_moe")
    inputs = family.inputs("user : <image> what color is the star ? assistant :")
    asked = inputs | {"output_router_logits": True, "labels": inputs["input_ids"]}
    with torch.no_grad():
        with SPARE(5, guidance="none")(family.model) as handle:
            out = family.model(**asked)
            assert out.router_logits[0].shape[0] == handle.columns.numel()
            assert bool(out.aux_loss.isfinite())
        with FastV(0.5, layer=1, average=False)(family.model):
            with pytest.raises(
                ValueError, match=r"^output_router_logits was asked for, and behind"
            ):
                family.model(**asked)
            assert family.model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


ENCODERS = [
    ("llava", {"vision_feature_layer": -1}),
    ("llava", {"vision_feature_select_strategy": "full"}),
    ("llava_next", {"vision_feature_layer": -1}),
    ("vipllava", {"vision_feature_layer": [-2, -1], "vision_feature_layers": [-2, -1]}),
    ("llava_onevision", {"vision_aspect_ratio": "anyres_max_4"}),
]


@pytest.mark.parametrize(("name", "options"), ENCODERS, ids=lambda v: str(v)[:40])
def test_what_goes_to_the_encoder(name, options):
    """Either what stock does with it, where all tokens stay, or stock's own error."""
    family = made(name)
    inputs = family.inputs("user : <image> what color is the star ? assistant :")
    taken = inspect.signature(family.model.forward).parameters
    options = {key: value for key, value in options.items() if key in taken}
    with torch.no_grad():
        try:
            expected = family.model(**inputs, **options).logits
        except (ValueError, RuntimeError, TypeError) as error:
            with UniformGrid(1.0)(family.model), pytest.raises(type(error)):
                family.model(**inputs, **options)
            return
        with UniformGrid(1.0)(family.model):
            assert torch.equal(family.model(**inputs, **options).logits, expected)
        with SPARE(5, guidance="none")(family.model) as handle:
            family.model(**inputs, **options)
            assert [one.after for one in handle.report] == [5]


@pytest.mark.parametrize("wanted", [torch.tensor(3), [1, 2], range(3), slice(-3, None)], ids=str)
def test_other_ways_to_say_which_logits(attached, wanted):
    with pytest.raises(ValueError, match="is neither a whole number nor a tensor"):
        attached.model(**attached.inputs, logits_to_keep=wanted)


@pytest.mark.parametrize("place", ["begin", "end"])
def test_a_mask_that_hides_a_picture_at_an_end(attached, place):
    words = "<image> red star" if place == "begin" else "red star <image>"
    inputs = attached.setup.inputs(words)
    image = inputs["input_ids"][0] == attached.model.config.image_token_id
    mask = inputs["attention_mask"].clone()
    mask[0, : int(image.nonzero()[-1]) + 1] = 0 if place == "begin" else 1
    if place == "end":
        mask[0, int(image.nonzero()[0]) :] = 0
    with pytest.raises(ValueError, match=r"^attention_mask hides a picture at the beginning or"):
        attached.model(**inputs | {"attention_mask": mask})


def test_a_longest_length_within_the_prompt(setup):
    inputs = setup.inputs(ONE)
    config = GenerationConfig(max_length=20)
    with METHODS[0](setup.model):
        for how in ({"max_length": 20}, {"generation_config": config}):
            with pytest.raises(ValueError, match=r"^max_length=20 leaves no room after a prompt"):
                setup.model.generate(**inputs, **how)
