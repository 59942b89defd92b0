"""What is read off the encoder equals what eager attention would have said."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from sparevlm.encoder import AttentionOf, layer_index
from sparevlm.families import FAMILIES
from sparevlm.hf.encode import encode
from sparevlm.hf.media import IMAGE
from sparevlm.hf.pruning import Pruning
from sparevlm.methods import SCOPE, MMTok, PruMerge, PruningMethod
from tests.hf.conftest import ONE
from tests.tiny import tiny_llava

ASKED = (
    AttentionOf(),
    AttentionOf(layer=0),
    AttentionOf(layer=0.34, row="received"),
    AttentionOf(layer=-1, heads=False),
)


class Asks(PruningMethod):
    """Asks for everything."""

    needs = frozenset({"encoder_attention", "encoder_keys", "projector", "encoder"})
    keys_of = -1
    attention_of = ASKED

    def reduce(self, tokens):
        raise NotImplementedError


def siglip_llava() -> LlavaForConditionalGeneration:
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        image_size=56, patch_size=14,
    )  # fmt: skip
    text = tiny_llava().config.text_config
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )  # fmt: skip
    return LlavaForConditionalGeneration(config).eval().double()


def eager(model, pixels):
    """Attention [layers, B, H, L, L] and projector inputs, with the whole tower run eagerly."""
    tower = copy.deepcopy(model.model.vision_tower)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        out = tower(pixels, output_attentions=True, output_hidden_states=True, return_dict=True)
    return torch.stack(out.attentions), out.hidden_states


def asked(model, pixels, asks=Asks):
    with torch.no_grad():
        return encode(
            Pruning(asks(3), model, FAMILIES["llava"], None),
            IMAGE,
            {"pixel_values": pixels},
            hidden=False,
        ).tokens


def test_clip():
    model = tiny_llava()
    pixels = torch.randn(2, 3, 112, 112, dtype=torch.float64)
    attention, hidden = eager(model, pixels)
    for i, tokens in enumerate(asked(model, pixels)):
        layer = attention.shape[0] - 2  # what the projector reads is hidden state -2
        torch.testing.assert_close(tokens.attention(0), attention[layer, i, :, 0, 1:])
        torch.testing.assert_close(tokens.attention(1), attention[0, i, :, 0, 1:])
        torch.testing.assert_close(tokens.attention(2), attention[1, i].mean(1)[:, 1:])
        last = model.model.vision_tower.encoder.layers[-1]
        with torch.no_grad():
            x = last.layer_norm1(hidden[-2][i])
            q, k = last.self_attn.q_proj(x), last.self_attn.k_proj(x)
        plain = (q[:1] @ k.T / k.shape[1] ** 0.5).softmax(-1)[:, 1:]
        torch.testing.assert_close(tokens.attention(3), plain)
        torch.testing.assert_close(tokens.keys().flatten(1), k[1:])
        heads = last.self_attn.num_heads
        assert tokens.keys().shape == (196, heads, k.shape[1] // heads)
        torch.testing.assert_close(tokens.states(), hidden[-2][i, 1:])
        torch.testing.assert_close(tokens.projector.class_state, hidden[-2][i, 0])
        torch.testing.assert_close(tokens.project(tokens.states()), tokens.features)


def test_siglip_has_attention_received_in_place_of_the_class_row():
    model = siglip_llava()
    pixels = torch.randn(2, 3, 56, 56, dtype=torch.float64)
    attention, hidden = eager(model, pixels)
    for i, tokens in enumerate(asked(model, pixels)):
        torch.testing.assert_close(tokens.attention(0), attention[-1, i].mean(1))
        torch.testing.assert_close(tokens.attention(2), attention[1, i].mean(1))
        assert tokens.attention(3).shape == (1, 16)
        # stock eager attention takes its softmax in float32
        torch.testing.assert_close(tokens.states(), hidden[-1][i], rtol=1e-5, atol=1e-5)
        assert tokens.projector.class_state is None
        assert tokens.grid == (4, 4)


@pytest.mark.parametrize("make", [tiny_llava, siglip_llava])
def test_a_shrunk_picture(make):
    model = make()
    config = model.config.vision_config
    pixels = torch.randn(2, 3, config.image_size, config.image_size, dtype=torch.float64)
    tokens = asked(model, pixels)[1]
    side = config.image_size // config.patch_size
    assert tokens.encode(2, 3).shape == (6, tokens.features.shape[1])
    torch.testing.assert_close(tokens.encode(side, side), tokens.features)


def test_nothing_is_left_on_the_model(tiny):
    model = tiny.model
    pixels = tiny.inputs(ONE)["pixel_values"]
    model.get_image_features(pixels)  # transformers registers hooks of its own at the first call
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    asked(model, pixels)
    with pytest.raises(ValueError, match="own processor"):
        asked(model, torch.zeros(1, 2, 112, 112, dtype=torch.float64))
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert model.config.vision_config._attn_implementation == "sdpa"


def test_only_what_was_asked_for(tiny):
    class Keys(Asks):
        needs = frozenset({"encoder_keys"})

    pixels = tiny.inputs(ONE)["pixel_values"]
    tokens = asked(tiny.model, pixels, Keys)[0]
    assert tokens.encoder_attention is None and tokens.projector is None and tokens.encode is None
    assert tokens.encoder_keys is not None


def test_layers():
    assert [layer_index(layer, 22, 24) for layer in (None, -2, 9, 0.375, 0, -24)] == [
        22, 22, 9, 9, 0, 0,
    ]  # fmt: skip
    for wrong in (24, -25, 1.0):
        with pytest.raises(ValueError, match="the vision encoder has 24"):
            layer_index(wrong, 22, 24)


@pytest.mark.parametrize("method", [PruMerge(5), MMTok(6), SCOPE(5)])
def test_under_autocast(tiny, method):
    """A projector of another dtype takes its input there, though methods compare without it."""
    model = copy.deepcopy(tiny.model).float()
    model.model.multi_modal_projector.bfloat16()
    inputs = tiny.inputs(ONE)
    inputs["pixel_values"] = inputs["pixel_values"].float()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    with autocast, torch.no_grad(), method.attach(model, relevance="llm") as handle:
        out = model(**inputs)
    assert handle.report[0].after == len(handle.report[0].indices) < handle.report[0].before
    assert bool(out.logits.isfinite().all())
