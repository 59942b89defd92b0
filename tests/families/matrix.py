"""What tests of all families share: prompts, tiny models, answers, and a reference by hand."""

from __future__ import annotations

import copy
import functools
import inspect

import pytest
import torch
import transformers

from sparevlm.families import FAMILIES
from sparevlm.methods import SPARE
from tests.families import BUILDERS

ONE = "user : <image> what color is the star ? assistant :"
SHORT = "user : <image> count the digits . assistant :"
TWO = "user : <image> <image> is the red star in the first picture ? assistant :"
TEXT = "user : what color is the circle ? assistant :"
KEEP = 7
STATIC_IS_WRONG = {"gemma4_moe": ("5.18.", "5.19."), "gemma4_unified": ("5.",)}


@functools.cache
def made(name):
    return BUILDERS[name]()


def facts(family):
    return FAMILIES[family.model.config.model_type]


def near(family):
    """How near a batch comes to its singles; linear attention is in float32, padding or not."""
    linear = facts(family).model_type.startswith("qwen3_5")  # stock: 2e-4 with nothing pruned
    return {"rtol": 1e-2, "atol": 1e-3} if linear else {"rtol": 1e-5, "atol": 1e-5}


def spare(keep=KEEP, **settings):
    return SPARE(keep, guidance="none", **settings)


def skip_where_static_is_wrong(family):
    """Stock, pruned or not: with a static cache it masks a picture's tokens otherwise."""
    if transformers.__version__.startswith(STATIC_IS_WRONG.get(family.name, ())):
        pytest.skip("Gemma 4's masks in transformers are others with a static cache")


def placeholders(family):
    """Tokens that a random model may well say, and should not."""
    config = family.model.config
    # Ovis2 reads its indicators as parts of a picture, even those that it has said itself.
    said = getattr(config, "visual_indicator_token_ids", None) or ()
    marks = [config.image_token_id, getattr(config, "video_token_id", None), *said]
    return [mark for mark in marks if mark is not None]


def answer(family, inputs, steps=5, **options):
    more = {"do_sample": False, "max_new_tokens": steps, "min_new_tokens": steps}
    options = more | {"suppress_tokens": placeholders(family)} | options
    return family.model.generate(**copy.copy(inputs), **options)


def new(inputs, out):
    return out[:, inputs["input_ids"].shape[1] :]


@torch.no_grad()
def by_hand(family, inputs, report, original):
    """Logits of one prompt whose chosen rows and words are embedded here, row by row."""
    model = family.model
    ids = inputs["input_ids"][0]
    embedded = model.get_input_embeddings()(ids.clamp(max=len(family.processor.tokenizer) - 1))
    columns, rows, levels = visual_rows(family, inputs)
    for token, mark in picture_marks(family, inputs).items():
        embedded[ids == token] = mark.to(embedded)
    # Molmo 2 adds the rows to what it embeds placeholders as; others put them in their place.
    base = embedded[columns] if facts(family).model_type == "molmo2" else 0
    embedded[columns] = base + rows.to(embedded)
    keep, first = set(range(len(ids))), 0
    for picture in report:
        mine = columns[first : first + picture.before].tolist()
        first += picture.before
        if picture.after < picture.before:
            kinds = token_kinds(family, inputs)[0]
            between = range(mine[0], mine[-1] + 1)
            joint = len(picture.shares) > 1  # with words between them, which stay
            keep -= {i for i in between if kinds[i]} if joint else set(between)
            keep |= {mine[i] for i in picture.indices.tolist()}
    assert first == len(columns)
    kept = sorted(keep)
    words = {
        "inputs_embeds": embedded[kept][None],
        "attention_mask": torch.ones(1, len(kept), dtype=torch.long),
        "position_ids": torch.tensor([kept if original else list(range(len(kept)))]),
    }
    if not facts(family).mrope:
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                words[name] = inputs[name][:, kept]
        return model(**words, **inputs_of_layers(family, ids, kept)).logits
    # The language model alone, with positions of the whole prompt, and deepstack by hand.
    names = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    places, _ = model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        **{name: inputs[name] for name in names if name in inputs},
    )
    words["position_ids"] = places[..., kept]
    if levels:
        seen = set(columns.tolist())
        chosen = [columns.tolist().index(column) for column in kept if column in seen]
        words["deepstack_visual_embeds"] = [level[chosen] for level in levels]
        words["visual_pos_masks"] = torch.tensor([[column in seen for column in kept]])
    return model.lm_head(model.model.language_model(**words).last_hidden_state)


def inputs_of_layers(family, ids, kept):
    """What each layer of Gemma 4 reads of a token beside its state: of padding, for a picture's."""
    config = family.model.config.get_text_config()
    if not getattr(config, "hidden_size_per_layer_input", None):
        return {}
    text = family.model.base_model.language_model
    placeholder = torch.isin(ids, torch.tensor(placeholders(family)))
    safe = ids.masked_fill(placeholder, config.pad_token_id)[kept][None]
    return {"per_layer_inputs": text.get_per_layer_inputs(safe, text.embed_tokens(safe))}


def picture_marks(family, inputs):
    """Embeddings of marks that the vision tower learnt, as Ovis2's."""
    model = family.model.base_model
    tokens = getattr(model, "visual_indicator_token_ids", ())
    if not tokens:
        return {}
    marks = model.get_image_features(inputs["pixel_values"]).visual_indicator_features
    return dict(zip(tokens, marks, strict=True))


def token_kinds(family, inputs):
    """0 for words, 1 for pictures, 2 for videos [B, L]; the processor's where it says so."""
    config, ids = family.model.config, inputs["input_ids"]
    if "mm_token_type_ids" in inputs and facts(family).model_type != "molmo2":
        return inputs["mm_token_type_ids"].long()
    video = getattr(config, "video_token_id", None)
    found = (ids == config.image_token_id).long()
    if facts(family).model_type == "molmo2":  # one token for both; it takes pictures or videos
        return found * (2 if "pixel_values_videos" in inputs else 1)
    return found if video is None else found + 2 * (ids == video).long()


@torch.no_grad()
def visual_rows(family, inputs):
    """Columns, features and deeper features of one prompt, as the stock model makes them."""
    base, kinds = family.model.base_model, token_kinds(family, inputs)[0]
    columns = kinds.nonzero()[:, 0]
    found = {}
    for name, code, pixels in (("image", 1, "pixel_values"), ("video", 2, "pixel_values_videos")):
        if pixels not in inputs:
            continue
        encoder = getattr(base, f"get_{name}_features", base.get_image_features)
        known = inspect.signature(encoder).parameters
        given = {k: v for k, v in inputs.items() if k in known}
        if pixels not in known:
            given["pixel_values"] = inputs[pixels]
        out = encoder(**given, return_dict=True)
        deep = getattr(out, "deepstack_features", None) or []
        found[code] = [flat(rows) for rows in (out.pooler_output, *deep)]
        if name == "video" and "video_compression_mask" in inputs:
            found[code] = [rows[inputs["video_compression_mask"]] for rows in found[code]]
    layers = []
    for each in zip(*found.values(), strict=True):
        rows = each[0].new_zeros(len(columns), each[0].shape[-1])
        for code, part in zip(found, each, strict=True):
            rows[kinds[columns] == code] = part
        layers.append(rows)
    return columns, layers[0], layers[1:]


def flat(rows):
    return torch.cat([part.flatten(0, -2) for part in rows])
