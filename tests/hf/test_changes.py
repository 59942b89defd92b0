"""What parts of layers do to tokens, and attention of the layer itself, read as TransPrune does."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import ClassVar

import pytest
import torch
from transformers import DynamicCache

from bench.masked import layers_of, masking
from sparevlm.hf import stock
from sparevlm.methods import TransPrune
from sparevlm.tokens import Reduction
from tests.families import BUILDERS
from tests.families.matrix import ONE, SHORT, TWO, answer, made, new, token_kinds
from tests.hf.test_inside import REFUSED, Stages, four_layers


class Once(TransPrune):
    """One stage at the last of few layers."""

    name: ClassVar[str] = ""

    def stages(self, layers: int, share: float = 1.0) -> dict[int, float]:
        return {layers - 1: 1.0}

    def watched(self, layers: int) -> range:
        return range(layers - 1)


@contextmanager
def reading(decoder, layers, parts):
    """All that goes into, and comes out of, parts of layers: {(layer, name): (in, out)}, [L, D]."""

    def keep(key):
        def hook(module, args, kwargs, out):
            given = args[0] if args else kwargs["hidden_states"]
            parts[key] = given[0].double(), (out[0] if isinstance(out, tuple) else out)[0].double()

        return hook

    hooks = [
        getattr(decoder.layers[i], name).register_forward_hook(keep((i, name)), with_kwargs=True)
        for i in layers
        for name in ("self_attn", "mlp")
    ]
    yield
    for hook in hooks:
        hook.remove()


def literal(model, inputs, columns, words, schedule, watched):
    """Columns of each picture that stay, and those that go at each stage, for one prompt.

    The whole model runs anew for each stage, with eager attention; what goes into every attention
    and feed-forward part and what comes out of it is kept whole.
    """
    decoder = stock.decoder_of(model)
    before = [part.config._attn_implementation for part in (model, decoder)]
    model.set_attn_implementation("eager")
    left, dropped = list(columns), {}
    try:
        for at, counts in schedule.items():
            parts = {}
            below = [i for i in watched if i < at]
            with torch.no_grad(), masking(model, dropped), reading(decoder, below, parts):
                out = model(**copy.copy(inputs), output_attentions=True, use_cache=False)
            length = inputs["input_ids"].shape[1]
            total = torch.zeros(length, dtype=torch.float64)
            for (i, _), (given, made_of_it) in parts.items():
                gone = [d[0] for stage, d in dropped.items() if stage <= i]
                there = torch.ones(length, dtype=torch.bool)
                there[torch.cat(gone) if gone else []] = False
                exps = (1 - torch.cosine_similarity(given, made_of_it, dim=-1)).exp()
                ratio = made_of_it.norm(dim=-1) / given.norm(dim=-1)
                total += ratio * exps / exps[there].sum()
            attention, went = out.attentions[at][0].double().mean(0), []
            for i, k in enumerate(counts):
                mine = left[i]
                paid = attention[words[words > columns[i][-1]]].mean(0)
                score = total[mine] / total[mine].sum() + paid[mine] / paid[mine].sum()
                left[i] = mine[score.argsort(descending=True, stable=True)[:k]].sort().values
                went.append(mine[~torch.isin(mine, left[i])])
            dropped[at] = [torch.cat(went)]
    finally:
        for part, name in zip((model, decoder), before, strict=True):
            part.set_attn_implementation(name)
    return left, dropped


def check(family, inputs, method) -> None:
    count = len(layers_of(family.model))
    with method(family.model) as handle:
        found = new(inputs, answer(family, inputs))
        report = handle.report
    kinds = token_kinds(family, inputs)[0]
    columns = kinds.nonzero()[:, 0].split([one.before for one in report])
    schedule = {at: [len(one.stages[at]) for one in report] for at in report[0].stages}
    words = (kinds == 0).nonzero()[:, 0]
    left, dropped = literal(family.model, inputs, columns, words, schedule, method.watched(count))
    for one, mine, kept in zip(report, columns, left, strict=True):
        assert torch.equal(mine[one.indices], kept)
        assert one.after < one.before
    with masking(family.model, dropped):
        assert torch.equal(found, new(inputs, answer(family, inputs)))


@pytest.mark.parametrize("prompt", [ONE, TWO], ids=["one", "two"])
@pytest.mark.parametrize("name", [*sorted(set(BUILDERS) - set(REFUSED)), "four layers"])
def test_every_family_equals_parts_read_whole(wide, name, prompt) -> None:
    family = wide(four_layers() if name == "four layers" else made(name))
    check(family, family.inputs(prompt), Once(keep=0.34, average=False))


def test_three_stages_equal_parts_read_whole(pocket) -> None:
    """Each stage sees the changes that the layers before it made, of what each had left."""
    model, inputs = pocket.model, pocket.inputs(ONE)
    method = TransPrune(keep=20, average=False)
    with method(model) as handle:
        model(**inputs)
        (report,) = handle.report
    ids = inputs["input_ids"][0]
    is_token = ids == model.config.image_token_id
    schedule = {at: [len(kept)] for at, kept in report.stages.items()}
    assert len(schedule) == 3
    (left,), _ = literal(
        model, inputs, [is_token.nonzero()[:, 0]], (~is_token).nonzero()[:, 0],
        schedule, method.watched(len(layers_of(model))),
    )  # fmt: skip
    assert torch.equal(is_token.nonzero()[:, 0][report.indices], left)


@pytest.mark.parametrize("name", ["llava", "cohere2_vision", "mistral3", "qwen2_5_vl", "glm4v_moe"])
def test_a_batch_of_unlike_prompts_equals_singles(wide, name) -> None:
    family = wide(made(name))
    both = family.inputs(TWO, SHORT)
    with Once(keep=0.34, average=False)(family.model) as handle:
        told, report = new(both, answer(family, both)), handle.report
        for row, one in enumerate((family.inputs(TWO), family.inputs(SHORT, first=2))):
            assert torch.equal(new(one, answer(family, one))[0], told[row])
            mine = [each for each in report if each.row == row]
            for alone, each in zip(handle.report, mine, strict=True):
                assert torch.equal(alone.indices, each.indices)


class Next(Stages):
    """What the last word attends to in the layer that gets fewer tokens."""

    name: ClassVar[str] = ""
    needs: ClassVar[frozenset[str]] = frozenset({"decoder_next_attention"})

    def choose(self, tokens, k: int) -> Reduction:
        last = torch.tensor([len(tokens.text) - 1])
        return Reduction.picked(tokens.next_attention(last)[0].argsort(descending=True)[:k])


@pytest.mark.parametrize("name", ["llava", "got_ocr2", "mistral3"])
def test_a_picture_after_a_turn_of_text(name, named) -> None:
    """What a layer cached before is seen when it looks ahead, and stays what it was."""
    family = made(name)
    whole = family.inputs(ONE)
    ids = whole["input_ids"]
    first = int(token_kinds(family, whole)[0].nonzero()[0, 0])
    assert first >= 2
    method, cache = Next(keep=0.4, average=False), DynamicCache()
    with torch.no_grad(), method(family.model) as handle:
        fresh, kept = family.model(**whole).logits[0, -1], handle.report[0].indices
        family.model(input_ids=ids[:, : first - 1], **named(cache))
        turn = {**whole, "input_ids": ids[:, first - 1 :]}
        later = family.model(**turn, **named(cache)).logits[0, -1]
    assert torch.equal(handle.report[0].indices, kept)
    assert torch.allclose(later, fresh, atol=1e-5)


def test_hooks_go_and_errors_leave_nothing(pocket, monkeypatch) -> None:
    model, inputs = pocket.model, pocket.inputs(ONE)

    def hooks():
        return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())

    logits, before = model(**inputs).logits, hooks()  # transformers hangs its own on the first call
    with TransPrune(keep=0.6)(model), pytest.raises(ValueError, match="mask"):
        model(**inputs | {"attention_mask": inputs["attention_mask"][:, None, None]})
    with TransPrune(keep=0.6)(model) as handle:
        stock_choose = TransPrune.choose
        monkeypatch.setattr(TransPrune, "choose", lambda self, tokens, k: tokens.changes()[99])
        with pytest.raises(IndexError):  # between two layers
            model(**inputs)
        monkeypatch.setattr(TransPrune, "choose", stock_choose)
        model(**inputs)
        assert handle.report[0].after < handle.report[0].before
    assert hooks() == before
    assert torch.equal(model(**inputs).logits, logits)


def test_a_layer_of_other_parts_is_refused(pocket, monkeypatch) -> None:
    monkeypatch.setattr(stock, "feed_forwards", lambda decoder: [None] * len(decoder.layers))
    with pytest.raises(ValueError, match="without a feed-forward part of the name that is known"):
        TransPrune(keep=0.6).attach(pocket.model)
