"""Bad input gets a sentence that says what to do."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from sparevlm.hf import load
from sparevlm.methods import SPARE, UniformGrid
from tests.hf.conftest import ONE, TEXT, TWO
from tests.tiny import tiny_llava

METHOD = UniformGrid(5)


def refused(match, call, *args, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def test_unsupported_models():
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}
    llama, bert = LlamaForCausalLM(LlamaConfig(**tiny)), BertModel(BertConfig(**tiny))
    refused("LlamaForCausalLM is not", METHOD.attach, llama)
    refused("BertModel is not supported", METHOD.attach, bert)
    refused("Linear is no transformers model", METHOD.attach, torch.nn.Linear(2, 2))
    refused("str is no transformers model", METHOD.attach, "llava")
    refused("Linear is no transformers", METHOD.prune_inputs, torch.nn.Linear(2, 2), {})


def test_pictures_and_placeholders_that_differ(tiny):
    inputs = tiny.inputs(ONE)
    two = inputs["pixel_values"].repeat(2, 1, 1, 1)
    short = {"input_ids": inputs["input_ids"][:, :100], "pixel_values": two[:1]}
    text = tiny.inputs(TEXT)
    with METHOD(tiny.model):
        for call in (tiny.model, tiny.model.generate):
            refused("196 placeholders and 392", call, **dict(inputs, pixel_values=two))
            refused("and 196 visual tokens from 1 pictures", call, **short)
            refused("2 pictures and no placeholder", call, **text, pixel_values=two)


def test_pictures_in_the_wrong_prompts(tiny):
    ids = tiny.inputs(ONE)["input_ids"]
    uneven = torch.cat([ids, ids])
    image = tiny.model.config.image_token_id
    moved = (uneven[1] == image).nonzero()[0, 0]
    uneven[1, moved] = 9
    uneven[0, -1] = image
    inputs = {"input_ids": uneven, "pixel_values": tiny.inputs(ONE, ONE)["pixel_values"]}
    with METHOD(tiny.model):
        refused("another number of placeholders", tiny.model, **inputs)


def test_embeddings_together_with_pictures(tiny):
    inputs = tiny.inputs(ONE)
    embeddings = tiny.model.get_input_embeddings()(inputs["input_ids"])
    with METHOD(tiny.model):
        pixels = inputs["pixel_values"]
        both = {"inputs_embeds": embeddings, "pixel_values": pixels}
        refused("inputs_embeds and pictures", tiny.model, **both)
        refused("without input_ids", tiny.model, pixel_values=pixels)


def test_features_that_were_made_before(tiny):
    """They go through as they are; with pictures besides, it is not clear what is meant."""
    inputs = tiny.inputs(ONE)
    with torch.no_grad():
        shorter = METHOD.prune_inputs(tiny.model, inputs)
        expected = tiny.model(**shorter).logits
        with METHOD(tiny.model):
            assert torch.equal(tiny.model(**shorter).logits, expected)
            both = inputs | {"mm_encoder_outputs": shorter["mm_encoder_outputs"]}
            for call in (tiny.model, tiny.model.generate):
                refused("pictures and mm_encoder_outputs were both given", call, **both)


def test_masks_of_other_shapes(tiny):
    inputs = tiny.inputs(ONE)
    length = inputs["input_ids"].shape[1]
    with METHOD(tiny.model):
        for mask in (torch.ones(1, 1, length, length), {"full_attention": None}):
            refused("attention_mask must", tiny.model, **dict(inputs, attention_mask=mask))


def test_video_and_chunked_prefill(tiny):
    inputs = tiny.inputs(ONE)
    with METHOD(tiny.model):
        video = torch.zeros(1, 2, 3, 112, 112)
        refused("takes no pixel_values_videos", tiny.model, **inputs, pixel_values_videos=video)
        chunked = dict(inputs, prefill_chunk_size=64, max_new_tokens=1)
        refused("prefill_chunk_size", tiny.model.generate, **chunked)


def test_original_positions_without_cache(tiny):
    inputs = tiny.inputs(ONE)
    with UniformGrid(5, positions="original")(tiny.model):
        options = {"use_cache": False, "max_new_tokens": 2}
        refused("original positions need the cache", tiny.model.generate, **inputs, **options)


def test_features_with_nan(tiny):
    inputs = tiny.inputs(ONE)
    inputs["pixel_values"][0, 0, 50, 50] = float("nan")
    with SPARE(5, guidance="none")(tiny.model):
        refused("NaN", tiny.model, **inputs)
        refused("NaN", tiny.model.generate, **inputs, max_new_tokens=1)


def test_a_picture_of_several_with_nan(tiny):
    """Of pictures that are chosen from together: the one, and its row."""
    inputs = tiny.inputs(TWO)
    inputs["pixel_values"][1, 0, 0, 0] = torch.nan
    with torch.no_grad(), SPARE(9, guidance="none")(tiny.model):
        refused(r"picture 2 of 2: .*row \d+", tiny.model, **inputs)


def test_a_method_that_breaks_its_contract(tiny):
    from dataclasses import dataclass

    from sparevlm.methods import PruningMethod
    from sparevlm.tokens import Reduction

    @dataclass(frozen=True)
    class Broken(PruningMethod):
        answer: object = None

        def reduce(self, tokens):
            return self.answer

    inputs = tiny.inputs(ONE)
    for answer, match in (
        (None, "must give a Reduction"),
        (Reduction(torch.tensor([3, 2])), "not ascending"),
        (Reduction(torch.tensor([2, 2])), "not ascending"),
        (Reduction(torch.tensor([195, 196])), "not ascending"),
        (Reduction(torch.tensor([1], dtype=torch.int32)), "int64"),
        (Reduction(torch.tensor([1]), features=torch.zeros(2, 64)), "features of shape"),
    ):
        with Broken(3, answer=answer)(tiny.model):
            refused(match, tiny.model, **inputs)


def test_loading(tmp_path):
    refused("no config.json", load, str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    refused("no weights", load, str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    tiny_llava().config.save_pretrained(tmp_path)
    refused("cannot be loaded", load, str(tmp_path))
    refused("there is no directory", load, str(tmp_path / "nowhere"))
    refused("there is no directory", load, "./nowhere")
