"""`sparevlm speed`: what it counts is right, what it times is in order, bad input is said."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from sparevlm.cli import main
from sparevlm.methods import SPARE, FastV, RandomTokens
from sparevlm.speed import SHAPES, measure, subject
from sparevlm.speed.report import break_even, markdown
from tests.families import BUILDERS

FP32 = torch.float32


@pytest.fixture(scope="module")
def pocket():
    return subject("pocket", dtype=FP32, device="cpu")


@pytest.fixture(scope="module")
def rows(pocket):
    methods = [SPARE(keep=0.25), RandomTokens(keep=0.25), SPARE(keep=0.0625)]
    return measure(pocket, methods, batch=2, words=9, repeats=3, new_tokens=3)


def test_tokens_and_cache(pocket, rows):
    text = pocket.model.config.get_text_config()
    width = text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
    assert [(row.method, row.after) for row in rows] == [
        ("all tokens", 196), ("spare", 49), ("random", 49), ("spare", 12),
    ]  # fmt: skip
    for row in rows:
        assert row.before == 196
        columns = row.after + 9
        assert row.kv_bytes == text.num_hidden_layers * 2 * 2 * columns * width * 4


def test_work_and_memory_shrink(rows):
    full, quarter, _, least = rows
    assert full.flops > quarter.flops > least.flops > 0
    assert full.peak_bytes > least.peak_bytes > 0


def test_times(rows):
    for row in rows:
        times = row.milliseconds
        assert set(times) == {"encoder", "selection", "prefill", "first_token", "decode"}
        assert all(0 <= t.low <= t.median <= t.high for t in times.values())
        assert row.ideal > 0
        assert row.speedup.low <= row.speedup.median <= row.speedup.high
    assert rows[0].speedup.median == rows[0].ideal == 1
    assert rows[0].milliseconds["selection"].high == 0


def test_methods_inside_the_decoder(pocket):
    """Their tokens are an average, their caches shorter; a budget that cannot be is left out."""
    methods = [FastV(keep=0.75), FastV(keep=0.01)]
    with pytest.warns(UserWarning, match="left out: FastV.*make an average of"):
        full, found = measure(pocket, methods, batch=1, words=9, repeats=2, new_tokens=2)
    assert found.after == 147 and found.keep == 0.75
    layers = pocket.model.config.get_text_config().num_hidden_layers
    least = 147 * layers - 2 * 196  # in the layers after the first two
    assert found.kv_bytes / full.kv_bytes == pytest.approx(
        (2 * 205 + least + 9 * (layers - 2)) / (205 * layers), rel=0.01
    )
    assert found.milliseconds["selection"].median > 0
    assert found.flops < full.flops


def test_model_is_left_as_it_was(pocket, rows):
    assert "generate" not in vars(pocket.model)
    assert not pocket.model._forward_pre_hooks


def test_calls_are_alike_each_time(pocket):
    one, other = pocket.inputs(2, 6), pocket.inputs(2, 6)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["input_ids"].shape == (2, 202)


PARAMETERS = {  # billions, as the checkpoints have
    "llava-1.5-7b": 7.06, "llava-1.5-13b": 13.35, "llava-next-7b": 7.06, "qwen2.5-vl-7b": 8.29,
    "qwen3-vl-8b": 8.77,
}  # fmt: skip
TOKENS = {
    "llava-1.5-7b": 576, "llava-1.5-13b": 576, "llava-next-7b": 2928, "qwen2.5-vl-7b": 1225,
    "qwen3-vl-8b": 900,
}  # fmt: skip
NARROW = {
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "depth": 2,
        "num_attention_heads": 2, "num_heads": 2, "out_hidden_size": 32,
        "fullatt_block_indexes": [1], "deepstack_visual_indexes": [0, 1],
    },
    "text_config": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_have_the_size_of_their_models(name):
    made = subject(name, dtype=torch.bfloat16, device="meta")
    size = sum(p.numel() for p in made.model.parameters())
    assert size / 1e9 == pytest.approx(PARAMETERS[name], rel=0.01)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_give_the_tokens_of_their_models(name, monkeypatch):
    """The geometry of the pictures, with everything else narrow."""
    facts, size = SHAPES[name]
    facts = copy.deepcopy(facts)
    for part, values in NARROW.items():
        facts[part].update({k: v for k, v in values.items() if k in facts[part]})
        rope = facts[part].get("rope_parameters")
        if rope:
            rope["mrope_section"] = [2, 3, 3]
    monkeypatch.setitem(SHAPES, name, (facts, size))
    made = subject(name, dtype=FP32, device="cpu")
    assert made.inputs(1, 5)["input_ids"].shape[1] - 5 == TOKENS[name]


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_any_folder_of_a_family(name, tmp_path):
    BUILDERS[name]().model.config.save_pretrained(tmp_path)
    made = subject(str(tmp_path), dtype=FP32, device="cpu")
    full, pruned = measure(made, [SPARE(keep=0.3)], batch=2, words=5, repeats=1, new_tokens=2)
    assert full.after == full.before > pruned.after >= 1


def row(keep, speed):
    return {"keep": keep, "speedup": {"median": speed}}


def test_break_even():
    assert break_even([row(0.1, 2), row(0.3, 1.5), row(0.5, 0.5)]) == pytest.approx(0.4)
    assert break_even([row(0.1, 2), row(0.3, 1.5)]) == 1
    assert break_even([row(0.1, 0.9), row(0.3, 0.8)]) is None


def test_command(tmp_path, capsys):
    out = tmp_path / "out"
    told = ["speed", "--keep", "25%,5%", "--batch", "1,2", "--text", "6", "--repeats", "2"]
    assert main([*told, "--new-tokens", "2", "--out", str(out)]) == 0
    found = json.loads((out / "results.json").read_text())
    assert found["schema"] == "sparevlm-speed-1"
    assert found["about"]["attention"] == "sdpa"
    assert found["about"]["dtype"] == "float32"
    assert found["about"]["loops of selection"].startswith(("compiled (numba 0.", "numpy"))
    assert [(r["batch"], r["method"], r["after"]) for r in found["models"]["pocket"]] == [
        (b, m, t) for b in (1, 2) for m, t in (("all tokens", 196), ("spare", 49), ("spare", 10))
    ]
    report = (out / "report.md").read_text()
    assert report == markdown(found)
    assert "pocket, batch 2, 6 words" in report
    assert sorted(p.name for p in out.iterdir()) == [
        "break-even.png", "report.md", "results.json", "speedup.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--batch", "0"], "--batch 0: give positive numbers"),
        (["--text", "a"], "--text a: give positive numbers"),
        (["--keep", "12"], "--keep 12: give shares below 1"),
        (["--keep", "100%"], "give shares below 1"),
        (["--repeats", "0"], "--repeats 0: it must be at least 1"),
        (["--new-tokens", "1"], "--new-tokens 1: it must be at least 2"),
        (["--shapes", "nothing-7b"], "no shape nothing-7b: give pocket, llava-1.5-7b"),
        (["--methods", "nothing"], "nothing"),
    ],
)
def test_bad_input_is_one_line(given, said, tmp_path, capsys):
    assert main(["speed", *given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
