"""What vLLM can do beside greedy answers, with pruned pictures: as transformers has it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="needs vLLM: make test-serving")

import torch
import transformers as tf
from PIL import Image
from safetensors.torch import save_file

from sparevlm import SPARE
from sparevlm.pocket.scenes import draw_scene
from tests.serving import checkpoints
from tests.serving.engine import Answer, Engine, Request, shared
from tests.serving.test_same_as_transformers import Transformers, seen

KEEP = 5
JSON = ("{", "}", '"')  # tokens that the tiny tokenizers lack
POSITION = "original"  # what a server with a budget gives
ENGINE = {"mm_processor_kwargs": {"sparevlm": {"keep": KEEP}}, "block_size": 32}
# vLLM's CPU operators give requests without an adapter that of the last slot, so it stays empty.
ONE = {
    "enable_lora": True, "max_lora_rank": 8, "max_loras": 2, "enable_mm_embeds": True,
    "enable_prompt_embeds": True, "enable_prefix_caching": True,
}  # fmt: skip


class Model:
    """A checkpoint, the same in transformers, and pictures."""

    def __init__(self, name: str, folder: Path) -> None:
        made = checkpoints.make(name)
        tokenizer = made.processor.tokenizer
        tokenizer.add_tokens(list(JSON))
        made.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        made.model.generation_config.eos_token_id = tokenizer.eos_token_id
        self.name, self.mark = name, made.image
        self.folder = checkpoints.save(made, folder / "model")
        self.other = Transformers(self.folder)
        self.pictures = []
        for i, size in enumerate([(112, 112), (200, 120), (90, 180)]):
            path = folder / f"{i}.png"
            draw_scene(i).picture().resize(size).save(path)
            self.pictures.append(str(path))

    def engine(self, **more: Any) -> Engine:
        return shared(self.folder, **ENGINE, **more)

    def request(self, place: int = 0, words: str = "", **more: Any) -> Request:
        words = words or "what color is the star ?"
        prompt = f"USER: {self.mark}\n{words} ASSISTANT:"
        return Request(prompt, [self.pictures[place]], **more)

    def answer(self, request: Request, **settings: Any) -> tuple[int, list[int]]:
        """Of transformers."""
        if settings.get("guidance") == "anti":
            settings["relevance"] = "llm"
        return self.other.answer(request, settings.pop("keep", KEEP), POSITION, **settings)


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def model(request, tmp_path_factory) -> Model:
    return Model(request.param, tmp_path_factory.mktemp(request.param))


def test_structured_output(model):
    schema = {
        "type": "object", "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"], "additionalProperties": False,
    }  # fmt: skip
    bounds = [
        {"choice": ["red", "blue"]},
        {"regex": "(three|seven)(circle|square)"},
        {"grammar": 'root ::= "left" "of" ("star" | "cross")'},
        {"json": schema},
    ]
    lines = model.other.processor.tokenizer.convert_tokens_to_ids("\n")  # JSON allows any number
    never = {"logit_bias": {lines: -100.0}}
    asked = [model.request(structured=bound, tokens=24, sampling=never) for bound in bounds]
    (found,) = model.engine(**ONE).ask([asked])
    length, _ = model.answer(model.request())
    assert {answer.prompt for answer in found} == {length}
    choice, regex, grammar, schemed = (answer.text.replace(" ", "") for answer in found)
    assert choice == restricted(model, asked[0], ["red", "blue"])
    assert re.fullmatch("(three|seven)(circle|square)", regex)
    assert grammar in ("leftofstar", "leftofcross")
    assert json.loads(schemed)["color"] in ("red", "blue")


def logits(model: Model, request: Request, ids: list[int]) -> torch.Tensor:
    """What transformers says after each token of the pruned prompt and of an answer, [L, V]."""
    image = Image.open(request.pictures[0]).convert("RGB")
    other = model.other
    inputs = other.processor(text=[request.prompt], images=[image], return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    more = torch.tensor([ids], dtype=torch.long)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], more], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(ids))], 1)
    assert inputs["input_ids"].shape[1] == length + len(ids)
    with SPARE(keep=KEEP, guidance="none", positions=POSITION)(other.model), torch.no_grad():
        return other.model(**inputs).logits[0]


def restricted(model: Model, request: Request, words: list[str]) -> str:
    """The likeliest of some words."""
    ids = model.other.processor.tokenizer.convert_tokens_to_ids(words)
    return words[int(logits(model, request, [])[-1, ids].argmax())]


def test_logprobs(model):
    """Of the answer, and of every token of the prompt behind the first."""
    asked = model.request(sampling={"logprobs": 0, "prompt_logprobs": 0})
    ((found,),) = model.engine(**ONE).ask([[asked]])
    assert seen(found) == model.answer(asked)
    said = logits(model, asked, found.ids[:-1]).log_softmax(-1)
    wanted = [float(row[i]) for row, i in zip(said[-len(found.ids) :], found.ids, strict=True)]
    assert found.logprobs == pytest.approx(wanted, abs=1e-3)
    before = said[: found.prompt - 1]
    told = torch.tensor(found.prompt_logprobs)
    assert len(told) == found.prompt - 1
    mark = model.other.processor.tokenizer.convert_tokens_to_ids(MARK[model.name])
    text = model.other.processor.tokenizer(asked.prompt).input_ids
    place = text.index(mark)
    ids = [*text[:place], *[mark] * KEEP, *text[place + 1 :]]
    wanted = [float(row[i]) for row, i in zip(before, ids[1:], strict=True)]
    assert told.tolist() == pytest.approx(wanted, abs=1e-3)


MARK = {"llava": "<image>", "qwen2_5_vl": "<|image_pad|>"}


def test_several_answers(model):
    drawn = {"n": 3, "temperature": 2.0, "seed": 7}
    low = {"n": 2, "temperature": 1e-4, "seed": 7}  # vLLM refuses n > 1 with temperature 0
    asked = [
        model.request(sampling=low),
        model.request(1, sampling=drawn),
        model.request(1, sampling=drawn),
    ]
    (found,) = model.engine(**ONE).ask([asked])
    length, greedy = model.answer(asked[0])
    assert found[0].several == [greedy, greedy]
    assert found[0].prompt == length
    assert found[1].several == found[2].several
    assert len({tuple(ids) for ids in found[1].several}) == 3


def test_beam_search(model):
    asked = [model.request(i, tokens=5) for i in range(2)]
    (found,) = model.engine(**ONE).ask([asked], "beam")
    assert [answer.several for answer in found] == [beams(model, r) for r in asked]


def beams(model: Model, request: Request, width: int = 3) -> list[list[int]]:
    """The best sequences of transformers' probabilities."""
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    for _ in range(request.tokens):
        longer = []
        for score, ids in best:
            row = logits(model, request, ids)[-1].log_softmax(-1)
            for i in row.topk(2 * width).indices.tolist():
                longer.append((score + float(row[i]), [*ids, i]))
        best = sorted(longer, reverse=True)[:width]
    return [ids for _, ids in best]


def adapter(folder: Path, model: Model) -> tuple[str, dict[str, torch.Tensor]]:
    """An adapter of the language model as peft writes it, and what it adds to which weight."""
    generator = torch.Generator().manual_seed(5)
    folder.mkdir()
    told, added = {}, {}
    for name, weight in model.other.model.named_parameters():
        if re.search(r"language_model\.layers\.\d\..*(q_proj|v_proj|down_proj)\.weight", name):
            a = torch.randn(8, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
            b = torch.randn(weight.shape[0], 8, generator=generator)
            start = f"base_model.model.{name.removesuffix('.weight')}"
            told |= {f"{start}.lora_A.weight": a, f"{start}.lora_B.weight": b}
            added[name] = 0.5 * b @ a
    save_file(told, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps({
            "peft_type": "LORA", "r": 8, "lora_alpha": 4, "bias": "none",
            "target_modules": ["q_proj", "v_proj", "down_proj"],
        })
    )  # fmt: skip
    return str(folder), added


def test_adapters(model, tmp_path):
    """Some of a batch with an adapter, some without, and guided by the question."""
    path, added = adapter(tmp_path / "adapter", model)
    guided = {"keep": KEEP, "guidance": "anti", "strength": 1.0}
    asked = [model.request(i, lora=lora) for i in range(3) for lora in (None, path)]
    asked += [model.request(i, sparevlm=guided, lora=path) for i in range(3)]
    (found,) = model.engine(**ONE).ask([asked])
    without = {i: model.answer(r) for i, r in enumerate(asked) if r.lora is None}
    weights = dict(model.other.model.named_parameters())
    with torch.no_grad():
        for name, change in added.items():
            weights[name] += change
        adapted = {
            i: model.answer(r, **{k: v for k, v in (r.sparevlm or {}).items() if k != "keep"})
            for i, r in enumerate(asked) if r.lora
        }  # fmt: skip
        for name, change in added.items():
            weights[name] -= change
    assert [seen(answer) for answer in found] == [(without | adapted)[i] for i in range(len(asked))]
    assert found[0].ids != found[1].ids


def test_prefix_cache(model):
    """A question more about a picture takes it from the cache; other tokens of it are others."""
    begin = "the red circle is left of the blue star . " * 6
    engine = model.engine(**ONE)

    def ask(words: str, **setting: Any) -> Answer:
        prompt = f"USER: {model.mark}\n{begin}{words} ASSISTANT:"
        asked = Request(prompt, [model.pictures[2]], {"keep": KEEP} | setting)
        ((found,),) = engine.ask([[asked]])
        rest = {k: v for k, v in setting.items() if k != "keep"}
        wanted = model.answer(asked, keep=setting.get("keep", KEEP), **rest)
        assert seen(found) == wanted
        return found

    first, second = "is it red ?", "which digit is in the picture ?"
    assert ask(first).cached == 0
    assert ask(second).cached >= 32
    assert ask(first, keep=KEEP + 1).cached == 0
    guided = {"guidance": "anti", "strength": 1.0}
    assert ask(first, **guided).cached == 0
    assert ask(second, **guided).cached == 0
    assert ask(first, **guided).cached >= 32


def test_embeddings_instead_of_pictures_are_not_pruned(model, tmp_path):
    """Nor are words that come as embeddings."""
    other = model.other
    asked = model.request()
    image = Image.open(asked.pictures[0]).convert("RGB")
    inputs = other.processor(text=[asked.prompt], images=[image], return_tensors="pt")
    rest = {k: v for k, v in inputs.items() if k in ("pixel_values", "image_grid_thw")}
    with torch.no_grad():
        found = other.model.get_image_features(**rest)
        rows = torch.cat(list(getattr(found, "pooler_output", found)))
        words = other.processor.tokenizer("USER: is it red ? ASSISTANT:", return_tensors="pt")
        text = other.model.get_input_embeddings()(words.input_ids)[0]
    given: Any = rows[None]
    if "image_grid_thw" in rest:
        given = {"image_embeds": rows, "image_grid_thw": rest["image_grid_thw"]}
    torch.save(given, tmp_path / "picture.pt")
    torch.save(text, tmp_path / "words.pt")
    engine = model.engine(**ONE)
    embedded = Request(asked.prompt, [str(tmp_path / "picture.pt")])
    texts = [Request("USER: is it red ? ASSISTANT:", []), Request(str(tmp_path / "words.pt"), [])]
    (one, *both) = engine.ask([[embedded], [texts[0]], [texts[1]]])
    assert seen(one[0]) == model.answer(asked, keep=None)
    assert both[0][0].ids == both[1][0].ids


def test_ngram_drafts(model):
    """Drafts that the prompt's own words make need no positions: kept tokens keep theirs."""
    drafts = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3,
              "prompt_lookup_min": 1}  # fmt: skip
    engine = model.engine(speculative_config=drafts, disable_chunked_mm_input=True)
    asked = [model.request(i, tokens=40, sparevlm={"keep": k}) for i in range(3) for k in (5, 9)]
    asked += [model.request(tokens=40, sparevlm={"keep": 1.0})]
    engine.seen()
    (found,) = engine.ask([asked])
    wanted = [
        model.answer(r, keep=None if r.sparevlm["keep"] == 1.0 else r.sparevlm["keep"])
        for r in asked
    ]
    assert [seen(answer) for answer in found] == wanted
    assert engine.seen()["accepted"] > 0


def test_preempted_and_cut(model):
    """A request that loses its place and comes back, its picture cut over chunks."""
    engine = model.engine(
        num_gpu_blocks_override=8, long_prefill_token_threshold=4, max_num_batched_tokens=64,
        max_model_len=192, enable_prefix_caching=False,
    )  # fmt: skip
    asked = [model.request(i % 3, tokens=60, sparevlm={"keep": 9 + i}) for i in range(5)]
    engine.seen()
    (found,) = engine.ask([asked])
    wanted = [model.answer(r, keep=r.sparevlm["keep"]) for r in asked]
    assert [seen(answer) for answer in found] == wanted
    assert engine.seen()["preempted"] > 0


def test_pooling(model):
    """The last hidden state of the last token, of length one."""
    engine = model.engine(runner="pooling", convert="embed")
    asked = [model.request(i, sparevlm={"keep": k}) for i in range(3) for k in (5, 9)]
    (found,) = engine.ask([asked], "embed")
    for answer, request in zip(found, asked, strict=True):
        keep = request.sparevlm["keep"]
        wanted = hidden(model, request, keep)
        assert answer.prompt == model.answer(request, keep=keep)[0]
        assert answer.numbers == pytest.approx(wanted, abs=1e-4)
    assert found[0].numbers != pytest.approx(found[1].numbers, abs=1e-2)


def hidden(model: Model, request: Request, keep: int) -> list[float]:
    image = Image.open(request.pictures[0]).convert("RGB")
    inputs = model.other.processor(text=[request.prompt], images=[image], return_tensors="pt")
    method = SPARE(keep=keep, guidance="none", positions=POSITION)
    with method(model.other.model), torch.no_grad():
        out = model.other.model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    return torch.nn.functional.normalize(out, dim=0).tolist()


def test_drafts_of_a_model(model, tmp_path):
    """They are of no use to kept positions: a line is renumbered, Qwen refused."""
    config = model.other.model.config.text_config.to_dict()
    small = {k: config[k] for k in ("vocab_size", "hidden_size", "intermediate_size",
                                    "num_hidden_layers", "num_attention_heads", "head_dim",
                                    "num_key_value_heads", "max_position_embeddings")}  # fmt: skip
    draft = tf.LlamaForCausalLM(tf.LlamaConfig(**small, tie_word_embeddings=False))
    draft.save_pretrained(tmp_path)
    model.other.processor.tokenizer.save_pretrained(tmp_path)
    drafts = {"method": "draft_model", "model": str(tmp_path), "num_speculative_tokens": 2}
    start = lambda: Engine(model.folder, **ENGINE, speculative_config=drafts)  # noqa: E731
    if model.name == "qwen2_5_vl":
        with pytest.raises(AssertionError, match="a draft model does not know where"):
            start()
        return
    asked = [model.request(i) for i in range(3)]
    engine = start()
    (found,) = engine.ask([asked])
    engine.close()
    wanted = [model.other.answer(r, KEEP, "compact") for r in asked]
    assert [seen(answer) for answer in found] == wanted


def test_adapters_of_the_tower_are_refused(model):
    tower = {"enable_lora": True, "max_lora_rank": 8, "enable_tower_connector_lora": True}
    with pytest.raises(AssertionError, match="remove --enable-tower-connector-lora"):
        Engine(model.folder, **ENGINE, **tower)
