"""What trainers send: prompts padded on the left, completions on the right, and which logits."""

from __future__ import annotations

import math

import pytest
import torch

from sparevlm.methods import SPARE, FastV, Staged
from tests.families.matrix import made
from tests.hf.conftest import ONE, SHORT, TEXT, TWO

METHODS = [
    SPARE(10, guidance="none", positions="compact"),
    SPARE(10, guidance="none", positions="original"),
    FastV(0.5, layer=1, average=False),
    Staged(SPARE(20, guidance="none"), FastV(0.5, layer=1, average=False)),
]
IDS = ["compact", "original", "FastV", "Staged"]
WORDS = ("red star", "blue", "the circle is left of it", "no")
PROMPTS = (ONE, TWO, TEXT, SHORT)


def with_completions(setup, prompts=PROMPTS, words=WORDS):
    """Inputs of a batch with completions behind, their mask, and each row by itself."""
    inputs = setup.inputs(*prompts)
    told = [setup.ids(text)[0] for text in words]
    longest = max(map(len, told))
    ids = torch.full((len(told), longest), setup.model.config.pad_token_id)
    mask = torch.zeros_like(ids)
    for row, some in enumerate(told):
        ids[row, : len(some)], mask[row, : len(some)] = some, 1
    whole = inputs | {
        "input_ids": torch.cat([inputs["input_ids"], ids], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], mask], 1),
    }
    singles, picture = [], 0
    for row, prompt in enumerate(prompts):
        real = whole["attention_mask"][row] != 0
        one = {"input_ids": whole["input_ids"][row, real][None]}
        one["attention_mask"] = torch.ones_like(one["input_ids"])
        count = prompt.count("<image>")
        if count:
            one["pixel_values"] = inputs["pixel_values"][picture : picture + count]
        picture += count
        singles.append(one)
    return whole, mask, singles


def labels_of(whole, mask):
    """The completions' own ids, -100 elsewhere."""
    n = mask.shape[1]
    labels = torch.full_like(whole["input_ids"], -100)
    labels[:, -n:][mask != 0] = whole["input_ids"][:, -n:][mask != 0]
    return labels


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_log_probabilities_of_completions(setup, method):
    whole, mask, singles = with_completions(setup)
    n = mask.shape[1]
    with torch.no_grad(), method(setup.model) as handle:
        batch = setup.model(**whole, logits_to_keep=n + 1).logits
        assert batch.shape[1] == n + 1
        last = torch.arange(-n - 1, 0) + whole["input_ids"].shape[1]
        by_column = setup.model(**whole, logits_to_keep=last).logits
        assert torch.equal(handle.columns[:, -n - 1 :], last.expand(len(mask), -1))
        assert torch.equal(handle.attention_mask[:, -n:], mask)
        for row, one in enumerate(singles):
            count = int(mask[row].sum())
            alone = setup.model(**one, logits_to_keep=count + 1).logits
            for found in (batch, by_column):
                torch.testing.assert_close(found[row, : count + 1], alone[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_loss_and_gradients_of_a_training_step(tiny, method):
    """The mean over completion tokens of a batch, and its gradients, as from rows one by one."""
    whole, mask, singles = with_completions(tiny)
    n, total = mask.shape[1], int(mask.sum())
    told = whole["input_ids"][:, -n:]

    def loss_of(logits, ids):
        return torch.nn.functional.cross_entropy(logits, ids, reduction="sum") / total

    with method(tiny.model):
        logits = tiny.model(**whole, logits_to_keep=n + 1, use_cache=False).logits[:, :-1]
        batch = loss_of(logits[mask != 0], told[mask != 0])
        batch.backward()
        found = {
            name: p.grad.clone() for name, p in tiny.model.named_parameters() if p.grad is not None
        }
        tiny.model.zero_grad()
        losses = []
        for row, one in enumerate(singles):
            count = int(mask[row].sum())
            logits = tiny.model(**one, logits_to_keep=count + 1, use_cache=False).logits[0, :-1]
            losses.append(loss_of(logits, told[row, :count]))
            losses[-1].backward()
    torch.testing.assert_close(batch, sum(losses), rtol=1e-4, atol=1e-5)
    for name, grad in found.items():
        own = dict(tiny.model.named_parameters())[name].grad
        torch.testing.assert_close(grad, own, rtol=1e-2, atol=1e-4, msg=name)


@pytest.mark.parametrize("method", METHODS[:3], ids=IDS[:3])
def test_labels_and_logits_in_one_call(setup, method):
    """With `labels` stock cuts nothing; the loss is over the same labels."""
    whole, mask, _ = with_completions(setup)
    labels = labels_of(whole, mask)
    with torch.no_grad(), method(setup.model) as handle:
        out = setup.model(**whole, labels=labels)
        own = handle.take(labels, fill=-100)
        assert own.shape == out.logits.shape[:2]
        # As a trainer's label smoothing and metrics do: logits beside the labels of their columns.
        shifted = torch.nn.functional.cross_entropy(
            out.logits[:, :-1].flatten(0, 1), own[:, 1:].flatten(), ignore_index=-100
        )
    torch.testing.assert_close(out.loss, shifted.to(out.loss.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_next", "internvl", "smolvlm"])
@pytest.mark.parametrize("inside", [False, True], ids=["before", "inside"])
def test_families(name, inside):
    family = made(name)
    way = FastV(0.5, layer=1, average=False) if inside else SPARE(7, guidance="none")
    prompts = ("user : <image> what color is the star ? assistant :",
               "user : what color is the circle ? assistant :")  # fmt: skip
    rows = [family.inputs(prompt) for prompt in prompts]
    tails = [
        family.processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in ("red star left circle", "blue")
    ]
    assert [len(tail) for tail in tails] == [4, 1]
    width = max(r["input_ids"].shape[1] for r in rows)
    ids = torch.zeros(2, width + 4, dtype=torch.long)
    mask = torch.zeros_like(ids)
    types = torch.zeros_like(ids)
    singles = []
    for row, (one, tail) in enumerate(zip(rows, tails, strict=True)):
        length = one["input_ids"].shape[1]
        both = torch.cat([one["input_ids"][0], torch.tensor(tail)])
        at = slice(width - length, width + len(tail))
        ids[row, at], mask[row, at] = both, 1
        single = one | {"input_ids": both[None], "attention_mask": torch.ones_like(both[None])}
        for kind in ("token_type_ids", "mm_token_type_ids"):
            if kind in one:
                single[kind] = torch.nn.functional.pad(one[kind], (0, len(tail)))
                types[row, at] = single[kind][0]
        singles.append(single)
    batch = rows[0] | {"input_ids": ids, "attention_mask": mask}
    batch |= {k: types for k in ("token_type_ids", "mm_token_type_ids") if k in batch}
    with torch.no_grad(), way(family.model):
        logits = family.model(**batch, logits_to_keep=5).logits
        for row, (single, tail) in enumerate(zip(singles, tails, strict=True)):
            alone = family.model(**single, logits_to_keep=len(tail) + 1).logits[0]
            torch.testing.assert_close(logits[row, : len(tail) + 1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS[:3], ids=IDS[:3])
def test_labels_that_are_shifted_already(setup, method):
    """As trainers give them that split sequences over devices."""
    whole, mask, _ = with_completions(setup)
    labels = labels_of(whole, mask)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    with torch.no_grad(), method(setup.model):
        expected = setup.model(**whole, labels=labels).loss
        found = setup.model(**whole, labels=labels, shift_labels=shifted).loss
    torch.testing.assert_close(found, expected)


def test_completions_without_padding_on_the_left(setup):
    """Prompts of one length that lose different numbers of tokens; trl slices what comes out."""
    short = "USER: <image>\nis it red ? ASSISTANT:"
    inputs = setup.inputs(TWO)
    words = "is the red star in the first picture ? " * 60
    longest = inputs["input_ids"].shape[1]
    one = setup.ids(words)[0]
    prompt = setup.inputs(short)["input_ids"][0]
    more = longest - len(prompt)
    ids = torch.cat([prompt[:-2], one[:more], prompt[-2:]])
    told = torch.tensor([[10, 11, 12, 13], [14, 15, 0, 0]])
    batch = {
        "input_ids": torch.cat([torch.stack([inputs["input_ids"][0], ids]), told], 1),
        "pixel_values": torch.cat([inputs["pixel_values"], inputs["pixel_values"][:1]]),
        "attention_mask": torch.ones(2, longest + 4, dtype=torch.long),
    }
    batch["attention_mask"][1, -2:] = 0
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -4:] = told.masked_fill(told == 0, -100)
    with torch.no_grad(), METHODS[0](setup.model) as handle:
        logits = setup.model(**batch, labels=labels).logits
        last = torch.arange(longest, longest + 4).expand(2, -1)
        assert torch.equal(handle.columns[:, -4:], last)
        asked = setup.model(**batch, logits_to_keep=5).logits
    torch.testing.assert_close(logits[:, -5:], asked, rtol=1e-4, atol=1e-4)


def test_columns_that_cannot_be_had(setup):
    whole, _mask, _singles = with_completions(setup)
    length = whole["input_ids"].shape[1]
    with torch.no_grad(), METHODS[0](setup.model) as handle:
        every = setup.model(**whole).logits
        for all_of_them in (0, length, length + 5):
            assert torch.equal(setup.model(**whole, logits_to_keep=all_of_them).logits, every)
        with pytest.raises(ValueError, match="reaches back into a picture"):
            setup.model(**whole, logits_to_keep=length - 20)
        with pytest.raises(ValueError, match="which were dropped"):
            setup.model(**whole, logits_to_keep=torch.tensor([length - 100, length - 1]))
        single = setup.inputs(ONE)
        count = single["input_ids"].shape[1]
        some = setup.model(**single, logits_to_keep=count - 3).logits
        assert some.shape[1] == int((handle.columns >= 3).sum())
        mask = torch.zeros(count, dtype=torch.bool)
        mask[[0, -1]] = True
        ends = setup.model(**single, logits_to_keep=mask).logits
        whole_logits = setup.model(**single).logits
    torch.testing.assert_close(ends, whole_logits[:, [0, -1]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooling_of_the_last_token(setup, method, side):
    """As embedding models do it: by the mask of the columns that came out."""
    inputs = setup.inputs(ONE, TWO, TEXT, side=side)
    with torch.no_grad(), method(setup.model.model) as handle:
        hidden = setup.model.model(**inputs).last_hidden_state
        kept = handle.attention_mask
        assert kept.shape == handle.columns.shape == hidden.shape[:2]
        assert torch.equal(handle.take(inputs["attention_mask"]), kept)
        assert torch.equal(
            handle.take(inputs["input_ids"])[kept != 0],
            inputs["input_ids"].gather(1, handle.columns.clamp(min=0))[kept != 0],
        )
        last = kept.shape[1] - 1 - kept.flip(1).argmax(1)
        pooled = hidden[torch.arange(3), last]
        for row, prompt in enumerate((ONE, TWO, TEXT)):
            first = (0, 1, 3)[row]
            one = setup.inputs(prompt, first=first)
            alone = setup.model.model(**one).last_hidden_state[0, -1]
            torch.testing.assert_close(pooled[row], alone, rtol=1e-3, atol=1e-3)


BEHIND = "USER: <image> blue circle is left of the star ASSISTANT:"


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_a_label_right_behind_a_picture(tiny, method):
    """It is predicted from the last token that is left, and has gradients."""
    inputs = tiny.inputs(BEHIND)
    ids = inputs["input_ids"]
    labels = torch.full_like(ids, -100)
    at = int((ids[0] == tiny.model.config.image_token_id).nonzero()[-1]) + 1
    labels[0, at] = ids[0, at]
    with method(tiny.model):
        loss = tiny.model(**inputs, labels=labels).loss
        loss.backward()
    grads = [p.grad for p in tiny.model.model.language_model.parameters() if p.grad is not None]
    assert max(float(grad.abs().max()) for grad in grads) > 1e-3
    assert abs(float(loss.detach()) - math.log(tiny.model.lm_head.out_features)) > 1e-3


@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_shifted_labels_behind_a_picture(tiny, method):
    inputs = tiny.inputs(BEHIND, TEXT)
    labels = inputs["input_ids"].clone()
    labels[labels == tiny.model.config.image_token_id] = -100
    labels[inputs["attention_mask"].cumsum(1) <= 1] = -100
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    with torch.no_grad(), method(tiny.model):
        expected = tiny.model(**inputs, labels=labels).loss
        found = tiny.model(**inputs, labels=labels, shift_labels=shifted).loss
    torch.testing.assert_close(found, expected)


def test_last_columns_of_rows_padded_on_the_right(tiny):
    inputs = tiny.inputs(TWO, ONE)
    method = METHODS[0]
    with pytest.raises(ValueError, match="not the last ones of every row here"):
        method.prune_inputs(tiny.model, inputs | {"logits_to_keep": 3}, padding_side="right")
    left = method.prune_inputs(tiny.model, inputs | {"logits_to_keep": 3})
    assert left["logits_to_keep"] == 3
