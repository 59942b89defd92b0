"""The command: what it prints, and one line for whatever is wrong."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel, BlipConfig, BlipForConditionalGeneration

import sparevlm
from sparevlm import cli, hf, list_methods
from sparevlm.commands import listings
from sparevlm.pocket.model import make_processor, make_tokenizer
from sparevlm.pocket.scenes import draw_scene
from tests.tiny import tiny_clip, tiny_llava

KEYS = [
    "question", "answer", "full_answer", "method", "model", "visual_tokens", "kept_tokens",
    "selection_ms", "prefill_ms", "full_prefill_ms", "picture",
]  # fmt: skip
QUESTION = "what color is the heart ?"


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """A directory with a tiny random LLaVA, its processor, and the CLIP of its vision tower."""
    folder = tmp_path_factory.mktemp("model")
    tiny_llava().float().save_pretrained(folder)
    make_processor().save_pretrained(folder)
    tiny_clip().float().save_pretrained(folder / "clip")
    make_tokenizer(clip=True).save_pretrained(folder / "clip")
    return str(folder)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"{seed}.png" for seed in (5, 6)]
    for seed, path in zip((5, 6), paths, strict=True):
        draw_scene(seed).picture().save(path)
    return [str(path) for path in paths]


@pytest.fixture
def ask(model, capsys):
    """Run `ask` on the tiny model with --json: the object, and what went to stderr."""

    def run(*words) -> tuple[dict, str]:
        code = cli.main(["ask", *map(str, words), "--json", "--model", model])
        out, err = capsys.readouterr()
        assert code == 0, err
        assert out.endswith("\n") and out.count("\n") == 1
        return json.loads(out), err

    return run


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must fail: one line, exit code 2, nothing printed or written."""

    def run(*words, code=2) -> str:
        before = sorted(tmp_path.rglob("*"))
        capsys.readouterr()  # what making the input printed
        assert cli.main([str(word) for word in words]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("sparevlm: error: ") and err.endswith("\n")
        assert err.count("\n") == 1, err
        assert sorted(tmp_path.rglob("*")) == before
        return err

    return run


@pytest.fixture
def no_model(monkeypatch):
    """Cheap checks come before the model."""

    def load(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(hf, "load", load)


# ---------------------------------------------------------------- ask


def test_json_contract(ask, scenes, model):
    found, err = ask(scenes[0], QUESTION)
    assert list(found) == KEYS
    assert err == ""
    assert found["question"] == QUESTION and found["method"] == "spare"
    assert found["model"] == model
    assert (found["visual_tokens"], found["kept_tokens"]) == (196, 12)
    assert found["full_answer"] is found["full_prefill_ms"] is found["picture"] is None
    assert isinstance(found["answer"], str) and found["answer"]
    assert 0 <= found["selection_ms"] < found["prefill_ms"]


def test_a_method_inside_the_decoder(scenes, capsys):
    """An average, and what each layer really gets: in the object, and in the table's label."""
    words = ["ask", scenes[0], QUESTION, "--method", "spare-decoder"]
    words += ["--keep", "0.9", "--max-new-tokens", "2"]
    assert cli.main([str(word) for word in [*words, "--json"]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["average_tokens"] == pytest.approx(0.9 * 196, abs=1.5)
    assert list(found["schedule"].values()) == [found["kept_tokens"]]
    assert found["kept_tokens"] < found["average_tokens"] < found["visual_tokens"] == 196
    assert cli.main([str(word) for word in words]) == 0
    assert f"spare-decoder {found['average_tokens']:.0f} tokens on" in capsys.readouterr().out


def test_compare_and_save(ask, scenes, tmp_path):
    path = tmp_path / "kept.png"
    found, _ = ask(scenes[0], QUESTION, "--compare", "--save", path, "--max-new-tokens", 3)
    assert found["picture"] == str(path)
    assert found["full_answer"] and found["full_prefill_ms"] > 0
    with Image.open(path) as drawn:
        assert drawn.size == (448, 448)
    assert list(tmp_path.iterdir()) == [path]


def test_everything_kept_is_the_full_answer(ask, scenes):
    for keep in ("1.0", "100%", "196", "100000"):
        found, _ = ask(scenes[0], QUESTION, "--keep", keep, "--compare")
        assert found["kept_tokens"] == 196
        assert found["answer"] == found["full_answer"]


def test_pruning_is_really_on(ask, scenes):
    one, _ = ask(scenes[0], QUESTION, "--keep", 1, "--compare", "--max-new-tokens", 16)
    assert one["answer"] != one["full_answer"]


def test_answer_equals_the_library(ask, scenes, model):
    found, _ = ask(scenes[0], QUESTION, "--keep", 9, "--max-new-tokens", 5)
    loaded, processor = hf.load(model, device="cpu")
    prompt = f"USER: <image>\n{QUESTION} ASSISTANT:"
    inputs = processor(images=Image.open(scenes[0]), text=prompt, return_tensors="pt")
    from sparevlm.methods import SPARE

    with SPARE(keep=9).attach(loaded, tokenizer=processor.tokenizer):
        out = loaded.generate(**inputs, do_sample=False, max_new_tokens=5)
    new = out[0, inputs["input_ids"].shape[1] :]
    assert found["answer"] == processor.tokenizer.decode(new, skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("keep", "kept"), [("16", 16), ("0.06", 12), ("5%", 10), (" 7 ", 7), ("1", 1), ("1.0", 196)]
)
def test_keep_is_read_as_people_write_it(keep, kept):
    from sparevlm.budgets import budget_tokens, read_budget

    assert budget_tokens(read_budget(keep), 196) == kept


def test_several_pictures(ask, scenes, tmp_path):
    path = tmp_path / "kept.jpg"
    found, _ = ask(*scenes, scenes[0], QUESTION, "--keep", 10, "--save", path)
    assert (found["visual_tokens"], found["kept_tokens"]) == (3 * 196, 30)
    with Image.open(path) as drawn:
        assert drawn.size == (3 * 448 + 2 * 16, 448)


def test_question_may_follow_the_options(capsys, model, scenes):
    words = ["ask", *scenes, "--keep", "4", "--json", "--model", model, "--", QUESTION]
    for given in (words, [word for word in words if word != "--"]):
        assert cli.main(given) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["question"] == QUESTION and found["kept_tokens"] == 8


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "random", "--seed", 3),
        ("--method", "UniformGrid", "--positions", "original"),
        ("--guidance", "none", "--positions", "compact"),
        ("--guidance", "normal", "--relevance", "llm"),
        ("--relevance", "none", "--device", "cpu"),
        ("--dtype", "bfloat16"),
    ],
)
def test_options(ask, scenes, options, tmp_path):
    save = ("--save", tmp_path / "a.webp")
    found, err = ask(scenes[0], QUESTION, *options, *save, "--max-new-tokens", 2)
    assert found["kept_tokens"] == 12
    assert err == ""


def odd_pictures(folder: Path) -> dict[str, Path]:
    grey = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    rgb = draw_scene(5).picture()
    transparent = rgb.convert("RGBA")
    transparent.putalpha(100)
    paths = {name: folder / f"{name}" for name in ("16.png", "cmyk.jpg", "rgba.png", "palette.png")}
    Image.fromarray(grey).save(paths["16.png"])
    rgb.convert("CMYK").save(paths["cmyk.jpg"])
    transparent.save(paths["rgba.png"])
    rgb.quantize(16).save(paths["palette.png"], transparency=3)
    paths["animated.gif"] = folder / "animated.gif"
    rgb.save(paths["animated.gif"], save_all=True, append_images=[rgb.rotate(90)])
    return paths


@pytest.mark.parametrize("name", ["16.png", "cmyk.jpg", "rgba.png", "palette.png", "animated.gif"])
def test_odd_pictures_work(ask, tmp_path, name):
    path = odd_pictures(tmp_path)[name]
    found, err = ask(path, QUESTION, "--save", tmp_path / "out.png", "--max-new-tokens", 2)
    assert found["kept_tokens"] == 12 and err == ""
    assert (tmp_path / "out.png").is_file()


@pytest.mark.parametrize("size", [(1, 1), (30, 400), (401, 113)])
def test_odd_sizes_work(ask, tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    out = tmp_path / "out.png"
    found, _ = ask(tmp_path / "a.png", QUESTION, "--save", out, "--max-new-tokens", 2)
    assert found["visual_tokens"] == 196
    with Image.open(out) as drawn:
        assert min(drawn.size) >= 448


def test_table(capsys, model, scenes, tmp_path):
    path = tmp_path / "kept.png"
    words = ["ask", scenes[0], QUESTION, "--model", model, "--max-new-tokens", "3"]
    assert cli.main([*words, "--compare", "--save", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == QUESTION and lines[-1] == f"kept tokens drawn in {path}"
    head, full, pruned = lines[2:5]
    assert full.startswith("all 196 tokens ") and pruned.startswith("spare 12 tokens ")
    column = head.index("answer")
    assert full[column - 2 : column] == pruned[column - 2 : column] == "  "
    assert full[column] != " " and pruned[column] != " "
    assert cli.main(words) == 0
    assert "spare 12 tokens of 196" in capsys.readouterr().out


def test_unknown_words_are_said_on_stderr(ask, scenes):
    _, err = ask(scenes[0], "what color is the gargoyle ?", "--max-new-tokens", 2)
    assert err == "sparevlm: warning: the model does not know these words: gargoyle\n"


def test_missing_clip_is_said_on_stderr(ask, scenes, monkeypatch):
    from sparevlm.hf import guidance

    def load_clip(*args, **kwargs):
        raise OSError("not at hand")

    monkeypatch.setattr(guidance, "load_clip", load_clip)
    _, err = ask(scenes[0], QUESTION, "--max-new-tokens", 2)
    assert err.startswith("sparevlm: warning: guidance by the question is off")
    assert err.count("\n") == 1


def test_logging_is_as_it_was_afterwards(ask, scenes):
    from transformers.utils import logging

    logging.set_verbosity_info()
    try:
        ask(scenes[0], QUESTION, "--max-new-tokens", 2)
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_warning()


# ---------------------------------------------------------------- bad input, before the model


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        ("0", "leaves no tokens"),
        ("-3", "leaves no tokens"),
        ("0.0", "no fraction"),
        ("-0.5", "no fraction"),
        ("1.5", "no fraction"),
        ("150%", "no fraction"),
        ("0%", "no fraction"),
        ("nan", "no budget"),
        ("inf", "no budget"),
        ("True", "no budget"),
        ("many", "no budget"),
        ("", "no budget"),
        ("%", "no budget"),
    ],
)
def test_bad_keep(refused, no_model, scenes, tmp_path, keep, words):
    save = tmp_path / "a.png"
    assert words in refused("ask", scenes[0], QUESTION, f"--keep={keep}", "--save", save)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "magic"), f"choose one of {', '.join(list_methods(inside=None))}"),
        (("--method", "random", "--guidance", "anti"), "RandomTokens has no setting guidance"),
        (("--method", "uniform", "--seed", "1"), "it has keep, per, positions"),
        (("--seed", "1"), "SPARE has no setting seed"),
        (("--guidance", "strong"), 'guidance must be one of "anti", "normal", "none"'),
        (("--positions", "odd"), "positions must be one of"),
        (("--method", "random", "--seed", "-1"), "integer >= 0"),
        (("--seed", "x"), "--seed"),
        (("--relevance", "bert"), "--relevance"),
        (("--dtype", "int8"), "--dtype"),
        (("--max-new-tokens", "0"), "at least 1"),
        (("--max-new-tokens", "x"), "--max-new-tokens"),
        (("--device", "toaster"), "device 'toaster'"),
        (("--device", "meta"), "device 'meta'"),
        (("--sav", "a.png"), "--sav"),
    ],
)
def test_bad_options(refused, no_model, scenes, options, words):
    assert words in refused("ask", scenes[0], QUESTION, *options)


@pytest.mark.parametrize("question", ["", "   ", "\n\t"])
def test_empty_question(refused, no_model, scenes, tmp_path, question):
    assert "question is empty" in refused("ask", scenes[0], question, "--save", tmp_path / "a.png")


def test_bad_pictures(refused, no_model, scenes, tmp_path):
    whole = Path(scenes[0]).read_bytes()
    (tmp_path / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    gif = b"GIF89a" + struct.pack("<HHBBB", 0, 0, 0, 0, 0) + b",\0\0\0\0\0\0\0\0\0\x02\0;"
    (tmp_path / "zero.gif").write_bytes(gif)
    for name, words in {
        "missing.png": "does not exist",
        "truncated.png": "truncated or damaged",
        "empty.png": "empty file",
        "text.png": "not a picture",
        "zero.gif": "zero.gif",
        "": "directory",
    }.items():
        path = tmp_path / name
        save = ("--save", tmp_path / "out.png")
        assert words in refused("ask", scenes[0], path, QUESTION, *save)


def test_pillow_warnings_do_not_add_lines(refused, no_model, tmp_path):
    exif = b"Exif\x00\x00MM\x00*\x00\x00\xff\xff garbage"
    Image.new("RGB", (16, 16)).save(tmp_path / "a.jpg", exif=exif)
    assert "empty file" in refused("ask", tmp_path / "a.jpg", _touch(tmp_path / "b.png"), QUESTION)


def _touch(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("name", ["no/a.png", "a.txt", "a", "folder.png"])
def test_bad_save(refused, no_model, scenes, tmp_path, name):
    (tmp_path / "folder.png").mkdir()
    refused("ask", scenes[0], QUESTION, "--save", tmp_path / name)


def test_save_does_not_overwrite_the_question(refused, no_model, tmp_path):
    path = tmp_path / "a.png"
    draw_scene(5).picture().save(path)
    before = path.read_bytes()
    assert "overwrite" in refused("ask", path, QUESTION, "--save", tmp_path / "." / "a.png")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [("bogus",), ("ask",), ("ask", "a.png"), ("methods", "spare", "x"), ("models", "--bogus")],
)
def test_bad_commands(refused, words):
    assert "--help)" in refused(*words)


# ---------------------------------------------------------------- bad input, found by the model


def test_model_without_weights(refused, scenes, model, tmp_path):
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((Path(model) / name).read_bytes())
    assert "weights" in refused("ask", scenes[0], QUESTION, "--model", tmp_path)


def test_empty_model_directory(refused, scenes, tmp_path):
    assert "config.json" in refused("ask", scenes[0], QUESTION, "--model", tmp_path)


@pytest.mark.parametrize("kind", ["bert", "blip"])
def test_unsupported_model(refused, scenes, tmp_path, kind):
    tiny = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32}  # fmt: skip
    if kind == "bert":
        BertModel(BertConfig(vocab_size=50, **tiny)).save_pretrained(tmp_path)
    else:
        config = BlipConfig(
            text_config={**tiny, "vocab_size": 50, "encoder_hidden_size": 32},
            vision_config={**tiny, "image_size": 32, "patch_size": 16},
        )
        BlipForConditionalGeneration(config).save_pretrained(tmp_path)
        make_processor().save_pretrained(tmp_path)
    refused("ask", scenes[0], QUESTION, "--model", tmp_path, "--save", tmp_path / "out.png")


def test_unknown_hub_name(refused, scenes, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "no/such-model" in refused("ask", scenes[0], QUESTION, "--model", "no/such-model")


def test_picture_mark_in_the_question(refused, scenes, model, tmp_path):
    save = ("--save", tmp_path / "out.png")
    words = ("ask", scenes[0], "what is <image> ?", "--model", model)
    assert "'<image>'" in refused(*words, *save)


def test_broken_features_are_named(refused, scenes, model, monkeypatch, tmp_path):
    loaded, processor = hf.load(model, device="cpu")
    with torch.no_grad():
        loaded.model.multi_modal_projector.linear_2.bias.fill_(float("nan"))
    monkeypatch.setattr(hf, "load", lambda *args, **kwargs: (loaded, processor))
    words = ("ask", scenes[0], QUESTION, "--save", tmp_path / "out.png")
    assert "row" in refused(*words)
    assert "generate" not in loaded.__dict__ and not loaded._forward_pre_hooks


# ---------------------------------------------------------------- failures of every kind


def failing(monkeypatch, error: BaseException) -> None:
    def run(args):
        raise error

    monkeypatch.setattr(listings, "_methods", run)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("several\nlines\n\n  of text"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nsee the docs"),
        TypeError(""),
        OSError(28, "No space left on device"),
        MemoryError(),
        ValueError("x" * 10_000),
    ],
)
def test_errors_are_squeezed_to_one_line(refused, monkeypatch, error):
    failing(monkeypatch, error)
    assert len(refused("methods")) < 700


def test_a_bug_is_told_from_bad_input(refused, monkeypatch):
    failing(monkeypatch, KeyError("surprise"))
    assert "KeyError" in refused("methods", code=1)


def test_debug_shows_the_traceback(capsys, monkeypatch):
    failing(monkeypatch, ValueError("bad"))
    monkeypatch.setenv("SPAREVLM_DEBUG", "1")
    assert cli.main(["methods"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and err.endswith("sparevlm: error: bad\n")


def test_interrupt_is_quiet(capsys, monkeypatch):
    failing(monkeypatch, KeyboardInterrupt())
    assert cli.main(["methods"]) == 130
    assert capsys.readouterr() == ("", "")


def test_closed_pipe_is_quiet(capsys, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli.main(["methods"]) == 1
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- listings, help


def test_methods(capsys):
    assert cli.main(["methods", "--json"]) == 0
    found = {facts["name"]: facts for facts in json.loads(capsys.readouterr().out)}
    assert {"random", "spare", "uniform"} <= set(found)
    spare = found["spare"]
    assert spare["class"] == "SPARE" and spare["paper"] == "arXiv 2606.18681"
    assert spare["needs"] == ["query"] and spare["merges"] is False
    assert spare["settings"]["guidance"] == "anti" and "keep" not in spare["settings"]
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "separate query and key projections (CLIP, SigLIP)" in out
    assert found["visionzip"]["merges"] and not found["random"]["works_with"]
    assert "guidance='anti'" in out and "sparevlm.RandomTokens" in out


LISTED = """
import json, sys
from sparevlm import cli
assert cli.main(sys.argv[1:]) == 0
heavy = [name for name in ("torch", "transformers", "sparevlm.methods") if name in sys.modules]
print(json.dumps(heavy), file=sys.stderr)
"""


def listed(*words: str, env=None):
    """What a command says in a process of its own, and what it had to import."""
    done = subprocess.run(
        [sys.executable, "-c", LISTED, *words], capture_output=True, text=True, check=True, env=env
    )
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("words", [["methods"], ["methods", "--json"], ["models"]], ids=" ".join)
def test_a_listing_imports_no_torch(words, capsys):
    said, imported = listed(*words)
    assert imported == []
    assert cli.main(words) == 0
    assert said == capsys.readouterr().out


def test_a_listing_of_other_sources_reads_the_classes(tmp_path):
    """A method was dropped in, or changed: what is written down does not count."""
    package = Path(sparevlm.__file__).parent
    shutil.copytree(package, tmp_path / "sparevlm", ignore=shutil.ignore_patterns("weights"))
    path = tmp_path / "sparevlm" / "methods" / "uniform_grid.py"
    path.write_text(path.read_text().replace('= "uniform"', '= "uniform-of-mine"'))
    said, imported = listed("methods", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert "uniform-of-mine: " in said and "torch" in imported


def test_models(capsys):
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == hf.family_facts()
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("family") and "vLLM" in lines[0]
    assert max(map(len, lines)) <= listings.WIDTH
    trained = [line for line in lines if "pocket, random weights" in line]
    assert len(trained) == 1 and "llava " in trained[0]
    assert sum(line.endswith("random weights") for line in lines) == len(hf.family_facts())


@pytest.mark.parametrize("name", ["qwen2_5_vl", "Qwen2.5-VL", "Qwen/Qwen2.5-VL-7B-Instruct"])
def test_one_family(name, capsys):
    assert cli.main(["models", name]) == 0
    out = capsys.readouterr().out
    assert "Qwen2_5_VLForConditionalGeneration" in out and "Qwen/Qwen2.5-VL-3B-Instruct" in out
    assert cli.main(["models", name, "--json"]) == 0
    assert [facts["model_type"] for facts in json.loads(capsys.readouterr().out)] == ["qwen2_5_vl"]


def test_one_method(capsys):
    assert cli.main(["methods", "FastV"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("fastv: ") and "decoder attention" in out
    assert "nothing but the features" not in out and "every supported model" not in out


def test_what_methods_inside_the_decoder_need():
    """Not the features alone, and not every model."""
    for facts in listings.described_methods():
        if facts["inside"]:
            assert facts["needs"] and any(
                "language models" in words for words in facts["works_with"]
            )


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("models", "lava", None),
        ("models", "qwen3vl", "qwen3-vl"),
        ("methods", "divprum", "divprune"),
    ],
)
def test_a_name_that_is_not_quite_right(kind, name, meant, capsys):
    code = cli.main([kind, name])
    out, err = capsys.readouterr()
    if code == 0:  # a part of some names
        assert name in out.lower()
    else:
        assert code == 2 and f"did you mean '{meant}'" in err


def test_version(capsys):
    try:
        expected = version("sparevlm")
    except PackageNotFoundError:
        expected = "(not installed)"
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"sparevlm {expected}\n"


@pytest.mark.parametrize("words", [["--help"], ["ask", "--help"], ["methods", "-h"]])
def test_help(capsys, words):
    assert cli.main(words) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: sparevlm") and err == ""
    assert words[0] != "ask" or "IMAGE [IMAGE ...] QUESTION" in out


def test_help_is_quick_and_the_module_runs():
    """As a process of its own: no torch is imported for the help."""
    code = (
        "import sys; from sparevlm.cli import main; main(['--help']); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    for words in (["-c", code], ["-m", "sparevlm", "--help"]):
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stdout.startswith("usage: sparevlm") and done.stderr == ""
        assert "True" not in done.stdout
