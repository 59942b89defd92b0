"""What is read off the encoder lies where the visual tokens lie: tiles, cells, frames."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import transformers as tf

from sparevlm.hf.encode import encode
from sparevlm.hf.layout import layout_of, tile_numbers
from sparevlm.hf.media import IMAGE, VIDEO
from sparevlm.hf.pruning import Pruning
from sparevlm.methods import SPARE, CDPruner, FasterVLM, UniformGrid, VisionZip
from sparevlm.relevance import ClipScorer, SiglipScorer
from sparevlm.selection import select
from tests.families.common import vision_settings
from tests.families.matrix import ONE, SHORT, TWO, answer, facts, made, new, spare
from tests.tiny import tiny_clip

FILM = "user : <video> what color is the star ? assistant :"
PACKED = ["llava_next", "llava_next_mistral", "llava_next_video", "llava_onevision"]
AVERAGED = [
    *((name, ONE) for name in ("paligemma", "gemma3", "internvl", "idefics3", "smolvlm")),
    *((name, ONE) for name in ("aya_vision", "cohere2_vision", "perception_lm")),
    *((name, FILM) for name in ("llava_onevision", "llava_next_video", "perception_lm")),
]


def arguments(family, inputs, modality):
    base = family.model.base_model
    encoder = getattr(base, f"get_{modality.name}_features", base.get_image_features)
    names = inspect.signature(encoder).parameters
    given = {k: v for k, v in inputs.items() if k in names}
    if modality.pixels not in names:
        given["pixel_values"] = inputs[modality.pixels]
    return encoder, given


@pytest.mark.parametrize("prompt", [ONE, TWO])
@pytest.mark.parametrize("name", PACKED)
def test_packed_states_project_to_the_features(name, prompt):
    family = made(name)
    with torch.no_grad():
        found = encode(
            Pruning(UniformGrid(1), family.model, facts(family), None),
            IMAGE,
            family.inputs(prompt),
            hidden=True,
        )
        for states, tokens in zip(found.hidden, found.tokens, strict=True):
            projected = family.model.base_model.multi_modal_projector(states)
            patches = tokens.candidates
            assert patches.any() and not patches.all()
            torch.testing.assert_close(projected[patches], tokens.features[patches])
            assert not states[~patches].any()


@pytest.mark.parametrize(("name", "prompt"), AVERAGED)
def test_cells_are_the_patches_that_a_token_is_made_of(name, prompt):
    """By gradients: which patches each token of the stock model depends on."""
    family = made(name)
    modality = VIDEO if "<video>" in prompt else IMAGE
    encoder, given = arguments(family, family.inputs(prompt), modality)
    out = encoder(**given, return_dict=True, output_hidden_states=True)
    layer = getattr(family.model.config, "vision_feature_layer", -1)
    states = out.hidden_states[layer]
    rows = torch.cat([rows.flatten(0, -2) for rows in out.pooler_output])
    tiles, length = states.shape[:2]
    each = len(rows) // tiles
    ends = len(rows) - each * tiles  # the separator after a video
    features = [torch.empty(each + ends * (i == tiles - 1), 1) for i in range(tiles)]
    layout = layout_of(family.model, facts(family), modality, given, features)
    cells = layout(torch.eye(length, dtype=states.dtype).expand(tiles, -1, -1))
    assert [len(cell) for cell in cells] == [len(rows) for rows in features]
    for tile in {0, tiles - 1}:
        for token in range(each):
            of = rows[tile * each + token].sum()
            (gradient,) = torch.autograd.grad(of, states, retain_graph=True)
            made_of = gradient.abs().sum(-1)
            assert not made_of[:tile].any() and not made_of[tile + 1 :].any()
            patches = cells[tile][token]
            assert torch.equal(made_of[tile] > 0, patches > 0)
            torch.testing.assert_close(patches.sum(), torch.ones((), dtype=states.dtype))
    assert not cells[-1][each:].any()


@pytest.mark.parametrize("name", PACKED)
def test_clip_beside_tiles(name):
    """Each patch of each tile is compared as CLIP itself would, whatever stands between."""
    family = made(name)
    if name == "llava_onevision":
        scorer = siglip_of(family)
    else:
        scorer = ClipScorer(tiny_clip(), family.processor.tokenizer)
    options = {"clip": scorer, "tokenizer": family.processor.tokenizer, "question": "a red star"}
    with torch.no_grad(), SPARE(5, strength=1.0).attach(family.model, **options) as handle:
        family.model(**family.inputs(ONE))
        found = encode(
            Pruning(UniformGrid(1), family.model, facts(family), None),
            IMAGE,
            family.inputs(ONE),
            hidden=True,
        )
        patches = torch.nn.functional.normalize(scorer.patches(found.hidden[0]).float(), dim=-1)
        texts = torch.nn.functional.normalize(scorer.texts("a red star").float(), dim=-1)
    at = found.tokens[0].candidates
    expected = (patches @ texts.T).mean(-1)[at]
    assert expected.std() > 0
    torch.testing.assert_close(handle.report[0].scores[at], expected, rtol=1e-4, atol=1e-4)


def siglip_of(family, size=56, patch=14):
    """A SigLIP around the vision tower of a family."""
    ids = family.processor.tokenizer
    torch.manual_seed(0)
    config = tf.SiglipConfig(
        vision_config=tf.SiglipVisionConfig(**vision_settings(size, patch)).to_dict(),
        text_config=tf.SiglipTextConfig(
            vocab_size=len(ids), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=16, projection_size=32,
        ).to_dict(),
    )  # fmt: skip
    return SiglipScorer(tf.SiglipModel(config).eval().double(), ids)


def test_a_picture_of_one_patch_is_what_siglip_says_of_it():
    """The pooling head over one patch gives SigLIP's own embedding of a picture of one patch."""
    scorer = siglip_of(made("paligemma"), size=14)
    pixels = torch.randn(3, 3, 14, 14, dtype=torch.float64)
    with torch.no_grad():
        whole = scorer.clip.get_image_features(pixels, return_dict=True).pooler_output
        out = scorer.clip.vision_model(pixels, output_hidden_states=True)
        found = scorer.patches(out.hidden_states[-1][:, 0])
    torch.testing.assert_close(found, whole)


def test_siglip_reads_questions_of_any_length():
    scorer = siglip_of(made("paligemma"))
    short, long = "what color", " ".join(["what color is the star ?"] * 9)
    assert [len(piece) for piece in scorer.segments(short)] == [16]
    pieces = scorer.segments(long)
    assert len(pieces) > 2 and {len(piece) for piece in pieces} == {16}
    assert scorer.texts(long).shape == (len(pieces), 32)
    text = scorer.clip.get_text_features(torch.tensor(scorer.segments(short))).pooler_output
    torch.testing.assert_close(scorer.texts(short), text)


@pytest.mark.parametrize("name", ["paligemma", "gemma3", "idefics3", "aya_vision"])
def test_siglip_guides(name):
    family = made(name)
    options = {"clip": siglip_of(family), "tokenizer": family.processor.tokenizer}
    with torch.no_grad(), CDPruner(4).attach(family.model, **options) as handle:
        family.model(**family.inputs(ONE))
    scores = handle.report[0].scores
    assert scores is None or scores.std() > 0
    with torch.no_grad(), SPARE(4, strength=1.0).attach(family.model, **options) as handle:
        family.model(**family.inputs(ONE))
    assert handle.report[0].scores.std() > 0


@pytest.mark.parametrize("method", [FasterVLM(5), VisionZip(6)])
@pytest.mark.parametrize("name", PACKED)
def test_encoder_methods_on_tiles(name, method):
    family = made(name)
    both = family.inputs(ONE, SHORT)
    with method(family.model) as handle:
        found = new(both, answer(family, both))
        report = handle.report
        for row, prompt in enumerate((ONE, SHORT)):
            one = family.inputs(prompt, first=row)
            assert torch.equal(found[row], new(one, answer(family, one))[0])
            assert torch.equal(handle.report[0].indices, report[row].indices)
    assert {picture.after for picture in report} == {method.keep}


@pytest.mark.parametrize("name", ["gemma3", "aya_vision", "llava_next"])
def test_attention_to_cells(name):
    """What a token receives is the mean of what its patches receive, with the tower run eagerly."""
    family = made(name)
    inputs = family.inputs(ONE)
    found = encode(
        Pruning(FasterVLM(2), family.model, facts(family), None), IMAGE, inputs, hidden=False
    )
    _, given = arguments(family, inputs, IMAGE)
    tower = copy.deepcopy(family.model.base_model.vision_tower)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        out = tower(inputs["pixel_values"].flatten(0, -4), output_attentions=True)
    read = getattr(family.model.config, "vision_feature_layer", -1)
    attention = out.attentions[read]  # [tiles, heads, queries, positions]
    of_class = attention.shape[-1] % 4 == 1
    rows = attention[:, :, 0] if of_class else attention.mean(2)
    features = [tokens.features for tokens in found.tokens]
    layout = layout_of(family.model, facts(family), IMAGE, given, features)
    expected = layout(rows.transpose(1, 2))
    for tokens, weights in zip(found.tokens, expected, strict=True):
        torch.testing.assert_close(tokens.attention(), weights.T)


@pytest.mark.parametrize("name", ["gemma3", "internvl", "idefics3", "aya_vision", "smolvlm"])
def test_attention_methods_where_tokens_are_cells(name):
    family = made(name)
    with torch.no_grad(), FasterVLM(2)(family.model) as handle:
        family.model(**family.inputs(TWO))
    assert [picture.after for picture in handle.report] == [2, 2]


@pytest.mark.parametrize("name", PACKED)
def test_every_tile_its_budget_where_they_lie_side_by_side(name):
    """Each tile is reduced by itself, and the answer is in the order of the picture."""
    family = made(name)
    inputs = family.inputs(ONE)
    with torch.no_grad(), spare(3, per="tile")(family.model) as handle:
        found = family.model(**inputs).logits
    tiles = inputs["pixel_values"].shape[-4]
    assert len(handle.report) == tiles > 1 and {tile.after for tile in handle.report} == {3}
    assert handle.report[0].grid == (4, 4)
    # By hand: tiles in the order of the encoder, each unpadded by the model's own packing.
    with torch.no_grad():
        whole = encode(
            Pruning(UniformGrid(1), family.model, facts(family), None), IMAGE, inputs, hidden=False
        )
        _, given = arguments(family, inputs, IMAGE)
        (number,) = tile_numbers(family.model, given, [whole.tokens[0].candidates])
        rows, patches = whole.features[0], whole.tokens[0].candidates
        kept = []
        for tile in range(tiles):
            places = (patches & (number == tile)).nonzero()[:, 0]
            kept += places[select(rows[places], 3).order].tolist()
        chosen = sorted(kept)
        places = (inputs["input_ids"][0] == family.model.config.image_token_id).nonzero()[:, 0]
        keep = torch.ones(len(inputs["input_ids"][0]), dtype=torch.bool)
        keep[places] = False
        keep[places[chosen]] = True
        safe = inputs["input_ids"][0].masked_fill(~keep, 0)
        embedded = family.model.get_input_embeddings()(safe)
        embedded[places[chosen]] = rows[chosen]
        expected = family.model(
            inputs_embeds=embedded[keep][None],
            position_ids=keep.nonzero().T,
            attention_mask=torch.ones(1, int(keep.sum()), dtype=torch.long),
        ).logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PACKED)
def test_keep_all_of_every_tile_is_bit_identical(name):
    family = made(name)
    inputs = family.inputs(ONE, SHORT)
    with torch.no_grad():
        logits = family.model(**inputs).logits
        with spare(1.0, per="tile")(family.model):
            assert torch.equal(family.model(**inputs).logits, logits)
        with spare(8, per="tile")(family.model) as handle:
            family.model(**inputs)
    assert {tile.after for tile in handle.report} == {8}


@pytest.mark.parametrize("name", PACKED)
def test_a_budget_of_all_patches_leaves_the_separators_out(name):
    family = made(name)
    inputs = family.inputs(ONE)
    with torch.no_grad(), spare(10_000)(family.model) as handle:
        family.model(**inputs)
        whole = handle.report[0]
        assert whole.after == whole.before
        found = encode(
            Pruning(UniformGrid(1), family.model, facts(family), None), IMAGE, inputs, hidden=False
        )
    patches = int(found.tokens[0].candidates.sum())
    with torch.no_grad(), spare(patches)(family.model) as handle:
        family.model(**inputs)
    assert handle.report[0].after == patches < whole.before
