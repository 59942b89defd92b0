"""The question found in the prompt, and the spaces it is compared with the picture in."""

from __future__ import annotations

import warnings

import pytest
import torch

from sparevlm.families import LLAVA
from sparevlm.guide import Guide
from sparevlm.hf.guidance import Guidance, make_guidance
from sparevlm.hf.loading import POCKET
from sparevlm.methods import SPARE
from sparevlm.pocket.model import make_tokenizer
from sparevlm.relevance import Asked, ClipScorer, EmbeddingScorer, tower_name
from sparevlm.tokens import Query
from tests.hf.conftest import ONE, SHORT, TWO
from tests.tiny import tiny_clip


@pytest.fixture
def scorer():
    return ClipScorer(tiny_clip(seed=1), make_tokenizer(clip=True))


def question(prompt, text=None):
    tokenizer = make_tokenizer()
    ids = tokenizer(prompt, return_tensors="pt").input_ids[0]
    ids = ids[ids != tokenizer.convert_tokens_to_ids("<image>")]
    return Guidance(None, tokenizer, LLAVA, text).read(ids)


def test_the_question_is_read_off_the_prompt():
    assert question(ONE) == "what color is the star ?"
    assert question(TWO) == "is the red star in the picture ?"  # "first" is not in its vocabulary
    turns = ONE + " red </s> USER: count the digits . ASSISTANT:"
    assert question(turns) == "count the digits ."
    assert question("<image> USER: ASSISTANT:") == ""


def test_clip_similarity_by_hand(tiny, scorer):
    inputs = tiny.inputs(ONE)
    with SPARE(9)(tiny.model, clip=scorer, tokenizer=tiny.processor) as handle:
        tiny.model(**inputs)
    clip = scorer.clip
    states = tiny.model.model.vision_tower(
        inputs["pixel_values"], output_hidden_states=True
    ).hidden_states[-2][0, 1:]
    patches = clip.visual_projection(clip.vision_model.post_layernorm(states))
    ids = scorer.tokenizer("what color is the star ?", return_tensors="pt").input_ids
    text = clip.get_text_features(input_ids=ids, return_dict=True).pooler_output
    cosine = torch.nn.functional.cosine_similarity(patches, text, dim=-1)
    torch.testing.assert_close(handle.report[0].scores, cosine.float(), rtol=1e-5, atol=1e-6)


def test_guidance_weighs_against_the_question(tiny, scorer):
    inputs = tiny.inputs(ONE)
    kept = {}
    for guidance in ("anti", "normal", "none"):
        method = SPARE(20, guidance=guidance, strength=1.0)
        with method(tiny.model, clip=scorer, tokenizer=tiny.processor) as handle:
            tiny.model(**inputs)
        (kept[guidance],) = handle.report
    scores = kept["anti"].scores
    means = {name: float(scores[one.indices].mean()) for name, one in kept.items()}
    assert means["anti"] < means["none"] < means["normal"]
    assert kept["none"].scores is None


def test_every_prompt_has_its_own_question(tiny, scorer):
    method, options = SPARE(9, strength=1.0), {"clip": scorer, "tokenizer": tiny.processor}
    with method(tiny.model, **options) as handle:
        tiny.model(**tiny.inputs(ONE, SHORT, TWO))
        batch = handle.report
        singles = []
        for prompt, first in ((ONE, 0), (SHORT, 1), (TWO, 2)):
            tiny.model(**tiny.inputs(prompt, first=first))
            singles += handle.report
    assert len(batch) == len(singles) == 4
    for ours, theirs in zip(batch, singles, strict=True):
        assert ours.indices.equal(theirs.indices)
        torch.testing.assert_close(ours.scores, theirs.scores)


def test_a_question_given_outright(tiny, scorer):
    with SPARE(9)(tiny.model, clip=scorer, question="what color is the star ?") as handle:
        tiny.model(**tiny.inputs(SHORT))
        given = handle.report[0].scores
    with SPARE(9)(tiny.model, clip=scorer, tokenizer=tiny.processor) as handle:
        tiny.model(**tiny.inputs(ONE))
    torch.testing.assert_close(handle.report[0].scores, given)


def test_long_questions_are_cut_into_segments(scorer):
    short, words = "is the star red ?", "red " * 70
    assert scorer.texts(short).shape[0] == 1
    long = scorer.texts(words.strip())
    assert long.shape[0] == 3  # 70 words, 30 a segment of 32
    whole = scorer.texts("red " * 30)
    torch.testing.assert_close(long[0], whole[0])
    assert scorer.texts("").shape[0] == 1


def test_language_model_embeddings(tiny):
    inputs = tiny.inputs(ONE)
    with SPARE(9)(tiny.model, relevance="llm") as handle:
        tiny.model(**inputs)
        by_ids = handle.report[0].scores
    features = tiny.model.get_image_features(inputs["pixel_values"], return_dict=True)
    ids = inputs["input_ids"][0]
    words = tiny.model.get_input_embeddings()(ids[ids != tiny.model.config.image_token_id])
    cosine = torch.nn.functional.cosine_similarity(
        features.pooler_output[0][:, None].float(), words[None].float(), dim=-1
    )
    torch.testing.assert_close(by_ids, cosine.mean(1), rtol=1e-4, atol=1e-5)
    with SPARE(9)(tiny.model, relevance="llm", tokenizer=tiny.processor) as handle:
        tiny.model(**inputs)
        assert not torch.allclose(handle.report[0].scores, by_ids)  # the question alone


def test_without_a_clip_it_says_so_and_goes_on(tiny):
    with (
        pytest.warns(UserWarning, match='no text tower is known .*"llm"'),
        SPARE(9)(tiny.model) as handle,
    ):
        tiny.model(**tiny.inputs(ONE))
    with SPARE(9, guidance="none")(tiny.model) as plain:
        tiny.model(**tiny.inputs(ONE))
    assert handle.report[0].indices.equal(plain.report[0].indices)


def test_nothing_is_loaded_that_is_not_needed(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in (SPARE(9, guidance="none"), SPARE(9, strength=0.0)):
            with method(tiny.model):
                tiny.model(**tiny.inputs(ONE))


def test_a_clip_of_another_shape_is_refused(tiny, tmp_path):
    from transformers import CLIPModel

    from sparevlm.pocket.model import clip_config

    CLIPModel(clip_config(width=64, layers=1)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_size 64 and the model's vision tower 32"):
        SPARE(9).attach(tiny.model, clip=str(tmp_path))
    with pytest.raises(ValueError, match="has no text_model"):
        ClipScorer(torch.nn.Linear(2, 2), None)


def test_the_pocket_model_brings_its_clip():
    from sparevlm.hf import load

    model, _ = load("pocket", device="cpu")
    assert tower_name(model) == str(POCKET / "clip")
    guidance = make_guidance(model, LLAVA, "clip", Guide())
    assert isinstance(guidance.scorer, ClipScorer)
    llm = make_guidance(model, LLAVA, "clip", Guide("llm"))
    assert isinstance(llm.scorer, EmbeddingScorer)


def test_similarity_is_the_mean_of_cosines():
    query = Query(torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    torch.testing.assert_close(query.similarity(), torch.tensor([0.5, 2**-0.5]))


def test_each_picture_of_a_call_is_compared_as_by_itself(scorer):
    """They go through the projection together, a few at a time, whatever their sizes."""
    draw = torch.Generator().manual_seed(0)
    asked = [
        Asked(torch.zeros(n, 4), torch.randn(n, 32, generator=draw), text, torch.zeros(0))
        for n, text in (
            (9, "red ?"),
            (4000, "red ?"),
            (5, ""),
            (7, "is the star red ?"),
            (200, "red ?"),
        )
    ]
    asked.append(
        Asked(torch.zeros(3, 4), torch.randn(4, 32, generator=draw), "red ?", asked[0].ids)
    )
    asked.append(Asked(torch.zeros(3, 4), None, "red ?", asked[0].ids))
    found = scorer.queries(asked)
    assert [query is None for query in found] == [False, False, True, False, False, True, True]
    for one, query in zip(asked, found, strict=True):
        if query is not None:
            alone = scorer.query(*one)
            torch.testing.assert_close(query.patches, alone.patches)
            assert query.texts is alone.texts


def test_a_question_is_read_once_a_prompt(tiny, scorer, monkeypatch):
    """Of the many frames or pictures of a prompt, and of prompts that are alike."""
    read, seen = Guidance.read, []
    monkeypatch.setattr(Guidance, "read", lambda self, ids: seen.append(1) or read(self, ids))
    with SPARE(9)(tiny.model, clip=scorer, tokenizer=tiny.processor) as handle:
        tiny.model(**tiny.inputs(TWO, TWO))
    assert len(handle.report) == 4 and len(seen) == 1
    assert all(one.scores is not None for one in handle.report)


def test_an_answer_is_no_question():
    assert question(ONE + " red") == "what color is the star ?"
    assert question("is there a red star ?") == "is there a red star ?"


def test_a_known_clip_that_is_not_at_hand(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr("sparevlm.hf.guidance.tower_name", lambda model: str(tmp_path / "none"))
    with pytest.warns(UserWarning, match='no matching CLIP is at hand: choose relevance "clip"'):
        SPARE(9)(tiny.model).detach()
