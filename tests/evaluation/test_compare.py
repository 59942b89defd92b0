"""A finished run beside published scores."""

from __future__ import annotations

import json

import pytest

from sparevlm import cli
from sparevlm.evaluation.compare import compare, known_model
from sparevlm.evaluation.finished import read_finished
from sparevlm.evaluation.published import METHODS, SOURCES, models, published
from sparevlm.methods import list_methods

LLAVA = "pretrained=llava-hf/llava-1.5-7b-hf,method=divprune,keep=64"


def lmms(arguments=LLAVA, ocr=False, **more):
    """Results as lmms-eval writes them."""
    return {
        "results": {
            "gqa": {"alias": "gqa", "exact_match,none": 0.571, "exact_match_stderr,none": 0.004},
            "pope": {"pope_f1_score,none": 0.861, "pope_accuracy,none": 0.5},
            "mme": {"mme_perception_score,none": 1380.5, "mme_cognition_score,none": 300.0},
            "textvqa_val": {"exact_match,none": 0.43, "submission,none": None},
            "vizwiz_vqa_val": {"exact_match,none": 0.5},
        },
        "configs": {"textvqa_val": {"lmms_eval_specific_kwargs": {"default": {"ocr": ocr}}}},
        "config": {"model": "sparevlm", "model_args": arguments},
    } | more


def write(folder, data):
    path = folder / "20260101_results.json"
    path.write_text(json.dumps(data))
    return path


def test_the_published_figures():
    cells = published()
    assert {cell.source for cell in cells} == set(SOURCES)
    assert {cell.accounting for cell in cells} == {"real", "average"}
    assert set(METHODS) <= {*list_methods(), "none"}
    assert set(METHODS.values()) <= {cell.method for cell in cells}
    assert models() == ["LLaVA-1.5-7B", "LLaVA-NeXT-7B", "Qwen2.5-VL-7B"]
    (found,) = (
        cell.score for cell in cells
        if (cell.source, cell.model, cell.method, cell.budget, cell.benchmark)
        == ("CDPruner", "LLaVA-1.5-7B", "DivPrune", 64, "gqa")
    )  # fmt: skip
    assert found == 57.5
    keys = [(c.source, c.model, c.method, c.budget, c.benchmark) for c in cells]
    assert len(set(keys)) == len(keys)


def test_cell_by_cell(tmp_path, capsys):
    path = write(tmp_path, lmms())
    assert cli.main(["compare", str(path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["model"] == "LLaVA-1.5-7B" and found["tokens"] == 64
    assert found["scores"]["gqa"] == pytest.approx(57.1)
    assert found["scores"]["mme_pc"] == 1680.5
    same = [row for row in found["published"] if row["same_method"]]
    assert [(row["source"], row["method"]) for row in same] == [
        ("CDPruner", "DivPrune"),
        ("MMTok", "DivPrune"),
    ]
    assert same[0]["scores"]["pope"] == 85.5
    assert same[0]["difference"]["pope"] == pytest.approx(0.6)
    assert "mme_p" in same[0]["scores"] and "mme_pc" not in same[0]["scores"]
    assert "mme_pc" in same[1]["scores"] and "mme_p" not in same[1]["scores"]
    assert {row["budget"] for row in found["published"]} == {64, 576}
    said = "\n".join(found["warnings"])
    assert "FastV" in said and "averaged over the layers" in said
    assert "perception" in said and "without them: not comparable" in said
    assert "vizwiz_vqa_val: papers report test-dev" in said

    assert cli.main(["compare", str(tmp_path)]) == 0  # the newest of a folder
    out = capsys.readouterr().out
    assert "= DivPrune (CDPruner)" in out and "57.5 (-0.4)" in out and "~64" in out
    assert "warning: TextVQA" in out and "arXiv 2506.10967" in out


def test_with_ocr_and_perception_alone(tmp_path):
    data = lmms(ocr=True)
    del data["results"]["mme"]["mme_cognition_score,none"]
    for part in ("results", "configs"):  # the task that docs/lmms-eval.md makes
        data[part]["textvqa_val_ocr"] = data[part].pop("textvqa_val")
    (run,) = read_finished(write(tmp_path, data))
    assert run.ocr is True and run.scores["textvqa"] == pytest.approx(43)
    assert "mme_pc" not in run.scores
    warnings = compare(run, "LLaVA-1.5-7B").warnings
    assert not any("TextVQA" in warning for warning in warnings)
    assert any("perception alone" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("arguments", "method", "budget", "near"),
    [
        ("pretrained=llava-hf/llava-1.5-7b-hf,keep=11.1%", "spare", 64, {64, 576}),
        ("pretrained=llava-hf/llava-1.5-7b-hf,method=none", "none", 576, {576}),
        ("pretrained=llava-hf/llava-1.5-7b-hf,keep=60", "spare", 60, {64, 576}),
        ({"pretrained": "x/llava-v1.6-vicuna-7b-hf", "keep": 160}, "spare", 160, {160, 2880}),
    ],
)
def test_budgets(tmp_path, arguments, method, budget, near):
    (run,) = read_finished(write(tmp_path, lmms(arguments)))
    found = compare(run, known_model(run.model))
    assert run.method == method and found.budget == budget
    assert {line.budget for line in found.lines} == near
    far = any(warning.startswith("budget: this run kept 60") for warning in found.warnings)
    assert far == (budget == 60)


def test_tokens_as_they_were_counted(tmp_path):
    data = lmms(throughput={"avg_kept_tokens_per_image": 128.0})
    (run,) = read_finished(write(tmp_path, data))
    assert compare(run, "LLaVA-1.5-7B").budget == 128


def test_models_are_told_by_their_names():
    assert known_model("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen2.5-VL-7B"
    assert known_model("llava-hf/llava-v1.6-vicuna-7b-hf") == "LLaVA-NeXT-7B"
    assert known_model("llava-hf/llava-1.5-7b-hf") == "LLaVA-1.5-7B"
    assert known_model("mine", "LLaVA-1.5-7B") == "LLaVA-1.5-7B"


def bench(schema=2):
    settings = [("all tokens", "", 576.0, 0.62), ("spare", "64", 64.0, 0.58)]
    return {
        "schema": schema,
        "about": {"model": "llava-hf/llava-1.5-7b-hf", "task": "gqa.parquet"},
        "settings": [
            {"method": m, "budget": b, "tokens": t, "accuracy": a, "yes_no_f1": 0.9}
            for m, b, t, a in settings
        ],
    }


def test_a_bench(tmp_path, capsys):
    path = write(tmp_path, bench())
    assert cli.main(["compare", str(path), "--benchmark", "gqa", "--json"]) == 0
    full, spare = json.loads(capsys.readouterr().out)
    assert (full["method"], full["tokens"]) == ("none", 576)
    assert (spare["method"], spare["tokens"]) == ("spare", 64)
    assert spare["scores"] == {"gqa": pytest.approx(58)}
    assert cli.main(["compare", str(path), "--benchmark", "pope", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["scores"] == {"pope": pytest.approx(90)}


@pytest.mark.parametrize(
    ("data", "words", "said"),
    [
        (bench(), (), "give --benchmark"),
        (bench(1), ("--benchmark", "gqa"), "another version of sparevlm (schema 1, now 2)"),
        (bench(), ("--benchmark", "imagenet"), "it is none of ai2d"),
        ({"what": 1}, (), "neither results.json of sparevlm bench nor results of lmms-eval"),
        ([1], (), "neither results.json of sparevlm bench nor results of lmms-eval"),
        (lmms() | {"results": {"docvqa_val": {}}}, (), "none of the tasks that have published"),
        (lmms("pretrained=mine"), (), "give --as with one of LLaVA-1.5-7B"),
        (lmms("pretrained=llava-1.5-7b,keep=many"), (), "how many tokens were kept"),
        (lmms(), ("--as", "GPT"), "no published scores of 'GPT'"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, data, words, said):
    path = write(tmp_path, data)
    assert cli.main(["compare", str(path), *words]) == 2
    out, err = capsys.readouterr()
    assert said in err and err.count("\n") == 1 and out == ""


def test_files_that_are_none(tmp_path, capsys):
    (tmp_path / "x.json").write_text("{")
    for path, said in (("x.json", "is no JSON"), ("y", "there is no"), (".", "holds no results")):
        assert cli.main(["compare", str(tmp_path / path)]) == 2
        assert said in capsys.readouterr().err
