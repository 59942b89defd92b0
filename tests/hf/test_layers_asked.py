"""Which layers published methods ask: of 32, only one gives the answer that they give."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

from bench.masked import masking
from sparevlm.methods import DARTDecoder, FastV, PyramidDrop, SparseVLM
from sparevlm.methods.in_decoder import LayerTokens
from sparevlm.methods.sparsevlm import raters
from tests.families import onedim
from tests.families.matrix import ONE, SHORT, token_kinds

LAYERS = 32
PROMPTS = ("what is in this picture ? " + ONE, ONE, "count the digits : " + SHORT)


@pytest.fixture(scope="module")
def family():
    """Eager, so that transformers shows what every layer attends to."""
    family = onedim.llava(num_hidden_layers=LAYERS)
    family.model.set_attn_implementation("eager")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in family.model.base_model.get_decoder().layers:
            for part in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                part.weight.normal_(0, 0.5, generator=generator)
    return family


@dataclasses.dataclass
class Seen:
    """What transformers shows of one prompt: all layers' states, keys and attention."""

    words: Tensor
    picture: Tensor
    states: tuple[Tensor, ...]
    keys: list[Tensor]
    attention: tuple[Tensor, ...]

    def paid(self, layer: int, asking: Tensor, left: Tensor) -> Tensor:
        """Mean over heads and asking columns: [k]."""
        return self.attention[layer][0].mean(0)[asking][:, left].mean(0)


@torch.no_grad()
def seen(family, dropped: dict[int, list[Tensor]], prompt: str = ONE) -> Seen:
    inputs = family.inputs(prompt)
    kinds = token_kinds(family, inputs)[0]
    with masking(family.model, dropped):
        out = family.model(
            **copy.copy(inputs),
            output_attentions=True,
            output_hidden_states=True,
            use_cache=True,
        )
    words, picture = (kinds == 0).nonzero()[:, 0], (kinds != 0).nonzero()[:, 0]
    states = tuple(state[0] for state in out.hidden_states)
    keys = [layer.keys[0].transpose(0, 1).flatten(1) for layer in out.past_key_values.layers]
    return Seen(words, picture, states, keys, out.attentions)


def stages(family, method, prompt: str = ONE) -> dict[int, Tensor]:
    """Columns that a method leaves, by the first layer that gets them alone."""
    with torch.no_grad(), method(family.model) as handle:
        family.model(**family.inputs(prompt), use_cache=True)
        (report,) = handle.report
    picture = token_kinds(family, family.inputs(prompt))[0].nonzero()[:, 0]
    return {at: picture[kept] for at, kept in report.stages.items()}


def layers_that_say(family, method, asking) -> dict[int, set[int]]:
    """{stage: the layers where `asking` columns pay most to what is left, in every prompt}."""
    found = [layers_of_one(family, method, asking, prompt) for prompt in PROMPTS]
    return {at: set.intersection(*(one[at] for one in found)) for at in found[0]}


def layers_of_one(family, method, asking, prompt: str) -> dict[int, set[int]]:
    found, dropped, left = {}, {}, None
    for at, kept in stages(family, method, prompt).items():
        shown = seen(family, dropped, prompt)
        left = shown.picture if left is None else left
        rows = asking(shown)
        found[at] = {
            layer
            for layer in range(LAYERS)
            if left[shown.paid(layer, rows, left).topk(len(kept)).indices].sort().values.tolist()
            == kept.tolist()
        }
        dropped[at] = [left[~torch.isin(left, kept)]]
        left = kept
    return found


def last(shown: Seen) -> Tensor:
    return shown.words[-1:]


def test_fastv_asks_the_last_layer_that_sees_all(family) -> None:
    for layer in (2, 5):
        method = FastV(keep=6, layer=layer, average=False)
        assert layers_that_say(family, method, last) == {layer: {layer - 1}}


def test_pyramiddrop_asks_the_first_layer_that_sees_less(family) -> None:
    found = layers_that_say(family, PyramidDrop(keep=3, average=False), last)
    assert found == {8: {8}, 16: {16}, 24: {24}}


def raters_of(shown: Seen, layer: int) -> Tensor:
    """Columns of words behind the picture that tokens' states before a layer are like."""
    behind = shown.words[shown.words > shown.picture[-1]]
    shares = shown.states[layer][shown.picture] @ shown.states[layer][behind].T
    means = shares.softmax(1).mean(0)
    return behind[means > means.mean()]


def test_sparsevlm_drops_behind_the_layer_that_it_asks(family) -> None:
    """Raters are of the embeddings, at every stage; asked of other states they are others."""
    method = SparseVLM(keep=3, average=False, recycle=False)
    found = layers_that_say(family, method, lambda shown: raters_of(shown, 0))
    assert found == {3: {2}, 7: {6}, 16: {15}}
    for at in (2, 3, 6, 7, 15, 16):
        others = layers_that_say(family, method, lambda shown, at=at: raters_of(shown, at))
        assert others != found


def test_dart_takes_keys_and_states_behind_the_second_layer(family) -> None:
    method = DARTDecoder(keep=9, average=False, pivots=2, words=2)
    (kept,) = stages(family, method).values()
    shown = seen(family, {})
    norm = family.model.base_model.get_decoder().norm
    found = []
    for at in range(LAYERS):
        for keys_of in range(LAYERS):
            given = LayerTokens(
                layer=at, features=shown.states[at][shown.picture],
                indices=torch.arange(len(shown.picture)), text=shown.states[at][shown.words],
                behind=shown.words > shown.picture[-1], keys=shown.keys[keys_of][shown.picture],
                text_keys=shown.keys[keys_of][shown.words], attention=None, next_attention=None,
                embeddings=None, received=None, norm=norm, changes=None,
            )  # fmt: skip
            if shown.picture[method.choose(given, 9).indices].tolist() == kept.tolist():
                found.append((at, keys_of))
    assert found == [(2, 1)]


def test_raters_of_a_picture_at_the_end() -> None:
    """Where no word is behind the picture, all may rate."""
    given = torch.eye(4)
    tokens = LayerTokens(
        layer=3, features=given, indices=torch.arange(4), text=given[:3],
        behind=torch.zeros(3, dtype=torch.bool), keys=given, text_keys=given[:3], attention=None,
        next_attention=None, embeddings=lambda: (given[[0, 0, 1, 3]], given[:3]), received=None,
        norm=None, changes=None,
    )  # fmt: skip
    assert raters(tokens).tolist() == [0]
