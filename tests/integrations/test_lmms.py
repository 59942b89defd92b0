"""lmms-eval for real, offline: a task in a parquet file, and the pocket model."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lmms_eval", reason="needs lmms-eval: make test-lmms")

from sparevlm import SPARE, cli, load
from sparevlm.evaluation import Setting, pocket_items, run
from sparevlm.evaluation.statistics import same
from sparevlm.pocket.questions import sample
from tests.evaluation.test_bench import TEMPLATE
from tests.families import BUILDERS

COUNT = 30
YAML = """task: pocket_scenes
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: {folder}/test.parquet
  cache_dir: {folder}/cache
test_split: test
output_type: generate_until
doc_to_visual: !function utils.visual
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 4
process_results: !function utils.process
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
metadata:
  version: 0.0
"""
UTILS = '''"""Functions of the task."""


def visual(doc):
    return [doc["image"].convert("RGB")]


def process(doc, results):
    return {"right": float(results[0] == doc["answer"])}
'''


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> Path:
    """A folder with a task of the first test questions."""
    import datasets

    folder = tmp_path_factory.mktemp("task")
    rows = []
    for i in range(COUNT):
        scene, question = sample("test", i)
        data = io.BytesIO()
        scene.picture().save(data, "png")
        image = {"bytes": data.getvalue(), "path": None}
        rows.append({"image": image, "question": question.text, "answer": question.answer})
    kinds = {"image": datasets.Image(), "question": datasets.Value("string")}
    features = datasets.Features(kinds | {"answer": datasets.Value("string")})
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "test.parquet")
    (folder / "pocket_scenes.yaml").write_text(YAML.format(folder=folder))
    (folder / "utils.py").write_text(UTILS)
    return folder


def evaluate(task: Path, out: Path, arguments: str, batch: int = 4, more=()):
    """The command; its results, what was said to each question, and its output."""
    done = subprocess.run(
        [
            sys.executable, "-m", "lmms_eval", "eval", "--model", "sparevlm",
            "--model_args", arguments, "--tasks", "pocket_scenes", "--include_path", str(task),
            "--batch_size", str(batch), "--output_path", str(out), "--log_samples", *more,
        ],
        capture_output=True, text=True, cwd=task,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"},
    )  # fmt: skip
    found = list(out.rglob("*_results.json"))
    if not found:
        return None, None, done.stdout + done.stderr
    (samples,) = out.rglob("*samples_pocket_scenes*.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    said = {line["doc_id"]: _text(line["filtered_resps"]) for line in lines}
    return json.loads(found[0].read_text()), said, done.stdout + done.stderr


def _text(answer):
    return answer if isinstance(answer, str) else _text(answer[0])


def ours(out: Path, method):
    """What our own loop makes of the same questions."""
    setting = Setting("one", "12" if method else "", 0, method)
    model, processor = load("pocket", device="cpu")
    items = pocket_items("test", COUNT)
    how = {"tokenizer": processor.tokenizer}
    answers, _ = run(
        model, processor, items, [setting], out, about={}, max_new_tokens=4, options=how
    )
    said = {answer.row: answer.said for answer in answers}
    right = [same(said[item.row], item.answers) for item in items]
    return sum(right) / COUNT, said


def test_the_unpruned_model(task, tmp_path):
    found, said, _ = evaluate(task, tmp_path / "a", "pretrained=pocket,method=none")
    accuracy, expected = ours(tmp_path / "b", None)
    assert said == expected
    assert found["results"]["pocket_scenes"]["right,none"] == pytest.approx(accuracy)
    assert found["throughput"]["avg_kept_tokens_per_image"] == 196


def test_a_pruned_model(task, tmp_path):
    arguments = "pretrained=pocket,method=spare,keep=12"
    found, said, out = evaluate(task, tmp_path / "a", arguments)
    accuracy, expected = ours(tmp_path / "b", SPARE(12))
    assert said == expected
    assert found["results"]["pocket_scenes"]["right,none"] == pytest.approx(accuracy)
    told = found["throughput"]
    assert told["avg_full_tokens_per_image"] == 196 and told["avg_kept_tokens_per_image"] == 12
    assert told["avg_images"] == COUNT
    assert "kept_tokens_per_image" in out
    _, alone, _ = evaluate(task, tmp_path / "c", arguments, batch=1)
    assert alone == said


def test_compare_reads_its_results(task, tmp_path, capsys):
    evaluate(task, tmp_path, "pretrained=pocket,keep=12")
    assert cli.main(["compare", str(tmp_path)]) == 2
    assert "none of the tasks that have published scores" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("pretrained=pocket,keep=12,strenght=1", "no argument is named 'strenght'"),
        ("pretrained=pocket", "how many tokens to keep is missing"),
        ("pretrained=/no/such/folder,keep=12", "there is no directory"),
    ],
)
def test_wrong_arguments(task, tmp_path, arguments, said):
    found, _, out = evaluate(task, tmp_path, arguments)
    assert found is None and said in out


def test_an_error_while_answering_is_no_result(task, tmp_path):
    more = ("--gen_kwargs", "max_new_tokens=0")
    found, _, out = evaluate(task, tmp_path, "pretrained=pocket,keep=12", more=more)
    assert found is None and "Traceback" in out and "max_new_tokens" in out


def test_what_cannot_be_asked():
    from sparevlm.integrations.lmms_model import SpareVLM

    model = SpareVLM(keep=12)
    with pytest.raises(NotImplementedError, match="generate_until"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="one round"):
        model.generate_until_multi_round([])
    with pytest.raises(ValueError, match="batch_size"):
        SpareVLM(keep=12, batch_size="auto")


class Request:
    """What lmms-eval hands over for one question."""

    def __init__(self, number, **wanted):
        self.args = ("", lambda doc: doc, wanted, number, "task", "test")


def asked(*contents):
    return [{"role": "user", "content": list(content)} for content in contents]


def test_pictures_or_none_and_stop_strings():
    from sparevlm.integrations.lmms_model import SpareVLM

    model = SpareVLM(keep=12, batch_size=4)
    scene, question = sample("test", 4)
    text = {"type": "text", "text": question.text}
    picture = {"type": "image", "url": scene.picture()}
    docs = [asked([picture, text]), asked([text]), asked([picture, picture, text])]
    model.task_dict = {"task": {"test": docs}}
    requests = [Request(i, max_new_tokens=4) for i in range(3)]
    found = model.generate_until(requests)
    assert found[0].text == question.answer and len(found) == 3
    assert model.kept == [(196, 12)] * 3
    first = question.answer[0]
    (cut,) = model.generate_until([Request(0, max_new_tokens=4, until=[question.answer[1:]])])
    assert cut.text == first
    (drawn,) = model.generate_until([Request(0, max_new_tokens=2, do_sample=True, temperature=0.7)])
    assert isinstance(drawn.text, str)
    docs[0] = asked([{"type": "video", "url": "film.mp4"}])
    with pytest.raises(ValueError, match="videos or sound"):
        model.generate_until([Request(0)])


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_family(name, monkeypatch):
    from sparevlm.integrations import lmms_model

    made = BUILDERS[name]()
    made.processor.chat_template = TEMPLATE.format(image=made.image)
    monkeypatch.setattr(lmms_model, "load", lambda *a, **how: (made.model, made.processor))
    model = lmms_model.SpareVLM(keep=0.3, method="divprune", batch_size=2)
    scenes = [sample("test", i)[0].picture() for i in range(2)]
    text = {"type": "text", "text": "what is it ?"}
    docs = [asked([{"type": "image", "url": scene}, text]) for scene in scenes]
    model.task_dict = {"task": {"test": docs}}
    found = model.generate_until([Request(i, max_new_tokens=2) for i in range(2)])
    assert len(found) == 2 and len(model.kept) >= 2
    assert all(0 < after < before for before, after in model.kept)


def test_the_tasks_of_the_documentation(tmp_path):
    """They exist, and the two commands make a task whose prompts hold OCR tokens."""
    import re

    from lmms_eval.tasks import TaskManager

    text = (Path(__file__).parents[2] / "docs" / "lmms-eval.md").read_text()
    (commands,) = re.findall(r"    cp -r .*\n    sed -i .*\n", text)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, check=True, capture_output=True,
        env=os.environ | {"PATH": path},
    )  # fmt: skip
    manager = TaskManager(include_path=str(tmp_path / "tasks"))
    for task in re.findall(r"--tasks (\w+)", text):
        assert task in manager.all_tasks, task
    made = manager._get_config("textvqa_val_ocr")["lmms_eval_specific_kwargs"]
    assert made["default"]["ocr"] is True
