"""The first layer's queries and keys of given rows, against those of the running layer."""

from __future__ import annotations

import pytest
import torch

from sparevlm import preview
from sparevlm.hf import stock
from sparevlm.hf.first_layer import first_layer_of
from sparevlm.methods import HAWK
from tests.families import BUILDERS
from tests.families.matrix import ONE, made, token_kinds
from tests.hf.conftest import SHORT, TWO

REFUSED = {
    "kimi_k25": "no separate queries and keys",
    "lfm2_vl": "no separate queries and keys",
    "qwen3_5": "no separate queries and keys",
    "qwen3_5_moe": "no separate queries and keys",
}


class Seen(HAWK):
    """Keeps what it is given."""

    name = ""

    def pick(self, tokens, k):
        self.seen.append(tokens)
        return super().pick(tokens, k)


def running(model, inputs):
    """Queries and keys [L, H, C] that the first layer makes in a call, unpruned, not rotated."""
    attention = stock.attentions(stock.decoder_of(model))[0]
    found = {}
    hooks = [
        stock.projection(attention, of).register_forward_hook(
            lambda _, args, out, of=of: found.update({of: out[0]})
        )
        for of in ("q", "k")
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    queries, keys = (stock.heads_of(attention, found[of], of).transpose(0, 1) for of in ("q", "k"))
    return queries, keys.repeat_interleave(queries.shape[1] // keys.shape[1], 1)


@pytest.mark.parametrize("name", sorted(set(BUILDERS) - set(REFUSED)))
def test_every_family(name):
    family = made(name)
    inputs = family.inputs(ONE)
    method = Seen(2)
    object.__setattr__(method, "seen", [])
    report = preview(method, family.model, inputs, tokenizer=family.processor, question="red star")
    queries, keys = running(family.model, inputs)
    places = token_kinds(family, inputs)[0].nonzero()[:, 0]
    embedded = family.model.get_input_embeddings()(inputs["input_ids"][0])
    rows = torch.cat([one.only_candidates().features for one in method.seen])
    if len(rows) == len(places):  # no separators
        if name == "molmo2":  # adds them to the placeholders' embeddings
            rows = rows + embedded[places]
        torch.testing.assert_close(first_layer_of(family.model).keys(rows), keys[places])
    at = slice(-4, None)  # words behind the picture, and no marks of it, which Ovis 2 replaces
    torch.testing.assert_close(first_layer_of(family.model).queries(embedded)[at], queries[at])
    assert all(one.after == 2 for one in report)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_families_that_are_refused(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        HAWK(3).attach(made(name).model)


def test_words_decide(pocket):
    """By the mean over the question's words, none of the template's."""
    model, inputs = pocket.model, pocket.inputs(SHORT)
    (report,) = preview(HAWK(9), model, inputs)
    queries, keys = running(model, inputs)
    places = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    words = torch.isin(inputs["input_ids"][0], pocket.ids("count the digits .")[0])
    dots = torch.einsum("nhc,mhc->mhn", keys[places], queries[words]).mean(0)
    scores = (dots / dots.norm(dim=1, keepdim=True)).mean(0)
    assert torch.equal(report.indices, scores.topk(9).indices.sort().values)


def test_nothing_else_compares(pocket):
    with pytest.raises(ValueError, match='choose relevance "llm"'):
        HAWK(9).attach(pocket.model, relevance="clip")
    inputs = pocket.inputs(TWO)
    named = preview(HAWK(9), pocket.model, inputs, relevance="llm")
    told = preview(HAWK(9), pocket.model, inputs)
    assert all(a.indices.equal(b.indices) for a, b in zip(named, told, strict=True))
