"""The bench: what it asks, what it writes, and that a stopped run goes on."""

from __future__ import annotations

import html
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from sparevlm import cli, evaluation, figures, load
from sparevlm.evaluation import loop, make_settings, plots, pocket_items, read_items
from sparevlm.evaluation.statistics import interval, relative, same, score_interval, yes_no_f1
from sparevlm.pocket.questions import sample, skills
from tests.families import BUILDERS

PLOTS = ("accuracy", "difference", "residual")


def bench(out, *words):
    return cli.main(["bench", "--out", str(out), "--batch", "10", *map(str, words)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    assert bench(out, "--limit", 20, "--keep", "49,12", "--methods", "spare,divprune") == 0
    return out


def test_what_a_run_writes(finished):
    found = json.loads((finished / "results.json").read_text())
    assert found["schema"] == 2 and found["questions"] == 20 and found["left_out"] == {}
    by = {(s["method"], s["budget"]): s for s in found["settings"]}
    assert set(by) == {("all tokens", ""), ("no-image", "")} | {
        (name, keep)
        for name in ("spare", "divprune", "random", "uniform", "average-pool", "downsample")
        for keep in ("49", "12")
    }
    full, blind, few = by["all tokens", ""], by["no-image", ""], by["spare", "12"]
    assert full["accuracy"] >= 0.75 and full["accuracy"] > blind["accuracy"] < few["accuracy"]
    assert full["tokens"] == 196 and few["tokens"] == 12 and blind["tokens"] == 0
    assert full["relative"] == 1 and full["relative_above_no_image"] == 1
    assert blind["relative_above_no_image"] == 0 and full["agreement"] == 1
    assert by["random", "12"]["seeds"] == 3 and few["seeds"] == 1
    assert few["residual"] > by["spare", "49"]["residual"] > 0 == full["residual"]
    assert few["selection_ms"] > 0 and few["first_token_ms"] > few["selection_ms"]
    mean, low, high = few["against"]["random"]
    assert low <= mean <= high and mean == pytest.approx(
        few["accuracy"] - by["random", "12"]["accuracy"]
    )
    skills = {sample("test", i)[1].skill for i in range(20)}
    assert set(few["skills"]) == skills
    page = (finished / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    # the gallery: six questions, with all tokens and by each method at the last budget
    assert page.count("data:image/jpeg;base64,") == 6 * 7 and sample("test", 3)[1].text in page
    assert page.count("<tr>") == 2 * (1 + len(by)) + 1 + 6
    low, high = few["interval"]
    assert low < few["accuracy"] <= high
    assert f"<td>{100 * few['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]</td>" in page
    assert (
        "http:" not in page
        and "https:" not in page
        and all(Image.open(finished / f"{n}.png").size[0] > 900 for n in PLOTS)
    )
    assert not list(finished.glob("*.partial"))
    report = (finished / "report.md").read_text()
    assert report.count("\n| ") == 1 + len(by) and "| divprune | 12 |" in report


def test_every_header_is_explained(finished):
    found = json.loads((finished / "results.json").read_text())
    page = (finished / "report.html").read_text()
    heads = re.findall(r'<th scope="col">(.*?)<small>(.*?)</small></th>', page)
    assert len(heads) == page.count('<th scope="col">') == 12 + 2 + len(found["skill_questions"])
    assert all(name and words for name, words in heads)
    assert sum(found["skill_questions"].values()) == 20
    text = (finished / "report.md").read_text()
    for name, words in heads:
        assert f"- {html.unescape(name)}: " in text or f"{name} ({words})" in text


def summary_of(*points):
    """A run of 40 questions, as `results` gives it: (method, tokens, accuracy, against SPARE)."""
    levels = [("all tokens", "", 196, 1.0, None), ("no-image", "", 0, 0.2, None)]
    rows = levels + [(name, str(k), k, share, against) for name, k, share, against in points]
    settings = [
        {
            "method": name, "budget": budget, "tokens": k, "accuracy": share,
            "residual": 1 / (k + 1), "interval": score_interval(np.arange(40) < 40 * share),
            "skills": {},
            "against": {} if against is None else {"spare": against},
        }
        for name, budget, k, share, against in rows
    ]  # fmt: skip
    return {"questions": 40, "settings": settings}


def bars(axes, name):
    """Middles [(x, y)] and ends [(low, high)] of a method's error bars."""
    (drawn,) = [one for one in axes.containers if one.get_label() == name]
    line, _, (whiskers,) = drawn
    ends = [(piece[0][1], piece[1][1]) for piece in whiskers.get_segments()]
    return list(zip(*line.get_data(), strict=True)), ends, line


def test_plots_have_the_intervals_of_the_tables():
    same_as = [("spare", k, 0.9, None) for k in (44, 11)]
    level = [("divprune", k, 0.9, [0.0, -0.05, 0.04]) for k in (44, 11)]
    summary = summary_of(*same_as, *level)
    (axes,) = plots.accuracy_plot(summary).axes
    low, high = score_interval(np.arange(40) < 36)
    for name in ("spare", "divprune"):
        points, ends, _ = bars(axes, name)
        assert [y for _, y in points] == [90, 90]
        assert np.allclose(ends, [(100 * low, 100 * high)] * 2)
    assert "40 questions" in axes.get_title(loc="left")
    (axes,) = plots.difference_plot(summary).axes
    points, ends, _ = bars(axes, "divprune")
    assert [y for _, y in points] == [0, 0] and np.allclose(ends, [(-5, 4)] * 2)
    assert axes.get_title(loc="left") == "How far from spare, on the same questions"
    (axes,) = plots.residual_plot(summary).axes
    assert np.allclose(bars(axes, "spare")[1], [(100 * low, 100 * high)] * 2)
    assert axes.get_title(loc="left")


def test_lines_that_coincide_are_told_apart():
    """Every pair differs in place by more than a mark's width, in colour, mark or line."""
    names = [*(f"m{i}" for i in range(9)), "spare"]
    summary = summary_of(*((name, k, 0.5, [0, 0, 0]) for name in names for k in (22, 20, 11)))
    figure = plots.accuracy_plot(summary)
    figures.png(figure)
    (axes,) = figure.axes
    seen = [bars(axes, name) for name in names]
    lines = [line for _, _, line in seen]
    looks = {(one.get_color(), one.get_marker(), str(one.get_linestyle())) for one in lines}
    assert len(looks) == len(names)
    places = sorted(axes.transData.transform(points[0])[0] for points, _, _ in seen)
    assert min(np.diff(places)) > 2  # pixels
    for points, _, _ in seen:  # no point comes nearer to another budget than to its own
        assert abs(np.log(points[0][0] / 11)) < abs(np.log(points[0][0] / 20))
    assert plots.difference_plot(summary_of(("divprune", 11, 0.5, None))) is None


def test_few_questions_have_no_bars():
    assert score_interval(np.ones(9)) is None
    summary = summary_of(("spare", 11, 0.9, None), ("divprune", 11, 0.9, [0.0, None, None]))
    for setting in summary["settings"]:
        setting["interval"] = None
    for plot in (plots.accuracy_plot, plots.difference_plot, plots.residual_plot):
        (axes,) = plot(summary).axes
        assert not any(one.has_yerr for one in axes.containers)


def test_every_answer_is_written_and_counted(finished):
    lines = [json.loads(line) for line in (finished / "answers.jsonl").read_text().splitlines()]
    assert len(lines) == 20 * (2 + 2 * (5 + 3))
    full = {line["row"]: line["said"] for line in lines if line["setting"] == "all tokens"}
    found = json.loads((finished / "results.json").read_text())
    right = [full[i] == sample("test", i)[1].answer for i in range(20)]
    assert found["settings"][0]["accuracy"] == pytest.approx(np.mean(right))


def test_a_killed_run_goes_on(finished, tmp_path, monkeypatch):
    whole = (finished / "answers.jsonl").read_text()
    (tmp_path / "run.json").write_text((finished / "run.json").read_text())
    lines = whole.splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_text("".join(lines[:151]) + lines[151][:30])
    asked = []
    real = loop._Asker.ask
    monkeypatch.setattr(
        loop._Asker, "ask", lambda *a: asked.extend(i.row for i in a[1]) or real(*a)
    )
    assert bench(tmp_path, "--limit", 20, "--keep", "49,12", "--methods", "spare,divprune") == 0
    assert len(asked) == len(lines) - 151  # nothing twice
    said = {(a["setting"], a["row"]): a["said"] for a in map(json.loads, lines)}
    again = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert {(a["setting"], a["row"]): a["said"] for a in again} == said and len(again) == len(said)
    a, b = (json.loads((o / "results.json").read_text()) for o in (finished, tmp_path))
    for one, other in zip(a["settings"], b["settings"], strict=True):
        assert one["accuracy"] == other["accuracy"] and one["against"] == other["against"]


WORDS = ("--limit", 15, "--keep", "12", "--methods", "spare", "--seeds", 1, "--batch", 5)


def start(out, first=lambda: None, **how):
    """The command in a process of its own, which does `first` before all else."""

    def begin():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells let their background jobs ignore it
        first()

    command = [sys.executable, "-m", "sparevlm", "bench", "--out", out, *WORDS]
    return subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        preexec_fn=begin, **how,
    )  # fmt: skip


def answers(out):
    """(setting, row) -> said; each once."""
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    found = {(a["setting"], a["row"]): a["said"] for a in lines}
    assert len(found) == len(lines)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert bench(out, *WORDS) == 0
    return answers(out)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_stopped(tmp_path, undisturbed, how):
    process = start(tmp_path)
    path, end = tmp_path / "answers.jsonl", time.monotonic() + 120
    while not (path.exists() and path.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(how)
    err = process.communicate()[1]
    assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert "Traceback" not in err
    before = path.read_text()
    assert before and not (tmp_path / "results.json").exists()
    assert bench(tmp_path, *WORDS) == 0
    assert answers(tmp_path) == undisturbed
    whole = [line for line in before.splitlines(keepends=True) if line.endswith("\n")]
    assert path.read_text().startswith("".join(whole))


def test_a_full_disk(tmp_path, undisturbed):
    """No file may grow beyond some lines, as on a disk that is full."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))  # a picture fits

    process = start(tmp_path, limit, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"})
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0 and out == ""
    assert "error: " in err and "too large" in err and "Traceback" not in err
    assert not (tmp_path / "results.json").exists()
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) > 5
    assert bench(tmp_path, *WORDS) == 0
    assert answers(tmp_path) == undisturbed


def test_a_run_of_another_version(finished, tmp_path, capsys):
    run = json.loads((finished / "run.json").read_text()) | {"schema": 1}
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert bench(tmp_path, "--limit", 20) == 2
    assert "another version of sparevlm (schema 1, now 2)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("task", ["dense:validation", "pictograms:test"])
def test_other_scenes(tmp_path, task):
    words = ("--task", task, "--limit", 11, "--keep", "49", "--seeds", 1)
    assert bench(tmp_path, *words) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    scenes, split = task.split(":")
    assert list(found["settings"][0]["skills"]) == list(skills(scenes))[:11]
    asked = [sample(split, i, scenes)[1].text for i in range(6)]
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in asked)


def test_another_run_in_the_folder(finished, capsys):
    before = (finished / "answers.jsonl").read_text()
    assert bench(finished, "--limit", 30) == 2
    assert "holds a run with questions 20, and this one has 30" in capsys.readouterr().err
    assert (finished / "answers.jsonl").read_text() == before


def write_task(folder, rows):
    for i in range(4):
        sample("test", i)[0].picture().save(folder / f"{i}.png")
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(i, **more):
    question = sample("test", i)[1]
    return {"image": f"{i}.png", "question": question.text, "answer": question.answer} | more


def test_a_file_of_the_users_with_odd_rows(tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = [row(0), row(1, answer=3), row(2, image="broken.png"), row(3), row(2, question=None)]
    path = write_task(tmp_path, rows)
    words = ("--task", path, "--keep", "12", "--seeds", 1)
    assert bench(tmp_path / "out", *words) == 0
    assert "3 questions were left out" in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["questions"] == 2 and set(found["left_out"]) == {"1", "2", "4"}
    assert "answer 3 is no text" in found["left_out"]["1"]
    assert "broken.png" in found["left_out"]["2"] and "no question" in found["left_out"]["4"]
    assert "row 2: " in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("before", [False, True])
def test_no_picture_can_be_read(tmp_path, capsys, before):
    """One sentence, and nothing is left: of the run, not of what lay there."""
    task = write_task(tmp_path, [row(i, image=f"missing{i}.png") for i in range(3)])
    out = tmp_path / "out"
    if before:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    assert bench(out, "--task", task, "--keep", 8) == 2
    said = capsys.readouterr().err
    assert "no question could be asked: row 0" in said.splitlines()[-1]
    assert all(line.startswith("sparevlm: ") for line in said.splitlines())
    assert [path.name for path in out.glob("*")] == (["mine.txt"] if before else [])
    assert out.exists() == before


def test_an_empty_question_is_not_asked(tmp_path, capsys):
    task = write_task(tmp_path, [row(0), row(1, question="  ")])
    assert bench(tmp_path / "out", "--task", task, "--keep", 8) == 0
    assert "1 question was left out" in capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text()
    assert "row 1: its question is empty" in report and "1 question, asked with " in report


def test_progress_where_no_terminal_is(tmp_path, capsys):
    assert bench(tmp_path, "--limit", 4, "--keep", 8) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(line.startswith("sparevlm: ") for line in lines)
    assert "0 of " in lines[0] and "left" in lines[0] and "\r" not in "".join(lines)


def test_several_pictures_a_question(tmp_path):
    path = write_task(tmp_path, [row(0) | {"image": ["0.png", "1.png"]}, row(1)])
    assert bench(tmp_path / "out", "--task", path, "--keep", "12", "--seeds", 1) == 0
    lines = (tmp_path / "out" / "answers.jsonl").read_text().splitlines()
    found = {(a["setting"], a["row"]): a for a in map(json.loads, lines)}
    assert found["all tokens", 0]["before"] == 392 and found["all tokens", 1]["before"] == 196
    assert found["spare 12 0", 0]["after"] == 24 and found["spare 12 0", 1]["after"] == 12


TEMPLATE = (
    "USER: {{% for p in messages[0]['content'] %}}"
    "{{% if p['type'] == 'image' %}}{image}{{% else %}} {{{{ p['text'] }}}}{{% endif %}}"
    "{{% endfor %}} ASSISTANT:"
)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_family_can_be_asked(name, tmp_path):
    made = BUILDERS[name]()
    made.processor.chat_template = TEMPLATE.format(image=made.image)
    items = pocket_items("test", 3)
    settings = make_settings(["divprune"], [0.3], 1)
    settings = [s for s in settings if s.name in ("all tokens", "divprune")]
    found, odd = loop.run(
        made.model, made.processor, items, settings, tmp_path, about={}, max_new_tokens=2
    )
    assert not odd and len(found) == 6
    full = next(a for a in found if a.setting == "all tokens")
    few = next(a for a in found if a.setting != "all tokens")
    assert full.before == full.after >= few.before > few.after > 0


def test_from_python(tmp_path):
    """Rows of the user's own, pictures in memory."""
    model, processor = load("pocket", device="cpu")
    rows = [row(i) | {"image": sample("test", i)[0].picture()} for i in range(4)]
    rows.append({"image": 3, "question": "what ?", "answer": "x"})
    found = evaluation.bench(
        model, processor, rows, tmp_path, methods=["divprune"], keep=[12], seeds=1
    )
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert found["questions"] == 4 and "neither a picture" in found["left_out"]["4"]
    with pytest.raises(ValueError, match="holds a run with content"):
        rows[0]["question"] = "another ?"
        evaluation.bench(model, processor, rows, tmp_path, methods=["divprune"], keep=[12], seeds=1)


def test_parquet(tmp_path):
    import pyarrow
    from pyarrow import parquet

    path = write_task(tmp_path, [])
    data = (tmp_path / "0.png").read_bytes()
    rows = [row(0) | {"image": {"bytes": data, "path": None}, "skill": "x"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path.with_suffix(".parquet"))
    items, odd = read_items(path.with_suffix(".parquet"))
    assert not odd and items[0].skill == "x" and items[0].question == row(0)["question"]
    assert np.array_equal(
        np.asarray(items[0].pictures()[0]),
        np.asarray(Image.open(tmp_path / "0.png").convert("RGB")),
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "bogus"), "no method is named 'bogus'"),
        (("--keep", "many"), "keep='many' is no budget"),
        (("--task", "pocket:train"), "pocket:test"),
        (("--task", "task.csv"), "neither .jsonl nor .parquet"),
        (("--task", "none.jsonl"), "none.jsonl"),
        (("--limit", "0"), "--limit 0: it must be at least 1"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, words, said):
    assert bench(tmp_path / "out", *words) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_missing_columns_are_named(tmp_path, capsys):
    path = tmp_path / "task.jsonl"
    path.write_text('{"picture": "a.png", "question": "what ?"}\n')
    assert bench(tmp_path / "out", "--task", path) == 2
    assert "has no image and no answer in its first row" in capsys.readouterr().err


def test_statistics():
    assert same(" Red triangle.", ("red triangle",)) and not same("red", ("red triangle",))
    assert relative(0.6, 0.8, 0.4) == pytest.approx((0.75, 0.5))
    assert relative(0.1, 0.0, 0.0) == (None, None)
    ours, theirs = np.array([1.0] * 60 + [0.0] * 40), np.array([1.0] * 50 + [0.0] * 50)
    mean, low, high = interval(ours, theirs)
    assert mean == pytest.approx(0.1) and 0.03 < low < 0.1 < high < 0.17
    assert interval(ours, ours) == (0, 0, 0)
    for right, n in ((60, 100), (10, 10), (0, 12)):
        outcomes = np.arange(n) < right
        wilson = binomtest(right, n).proportion_ci(method="wilson")
        assert score_interval(outcomes) == pytest.approx((wilson.low, wilson.high), abs=1e-6)
    said, answers = ["yes", "yes", "no", "no", "red"], ["yes", "no", "yes", "no", "red"]
    assert yes_no_f1(said, answers) == pytest.approx(0.5)
    assert yes_no_f1(["red"], ["red"]) is None


def test_methods_inside_the_decoder(tmp_path):
    """Their budget is an average, and the report prints what each layer really gets."""
    assert bench(tmp_path, "--limit", 3, "--keep", "60%", "--methods", "fastv,spare") == 0
    found = json.loads((tmp_path / "results.json").read_text())
    by = {s["method"]: s for s in found["settings"]}
    inside, before = by["fastv"], by["spare"]
    layers = load("pocket")[0].config.text_config.num_hidden_layers
    last = inside["schedule"]["2"]
    assert inside["tokens"] == pytest.approx((2 * 196 + (layers - 2) * last) / layers)
    assert inside["tokens"] == pytest.approx(0.6 * 196, abs=1) and inside["tokens_last"] == last
    assert before["schedule"] is None and before["tokens"] == before["tokens_last"] == 118
    line = f"- fastv 60%: 196 at first, {last} from layer 2"
    assert line in (tmp_path / "report.md").read_text()
    assert line[2:] in (tmp_path / "report.html").read_text()


def test_an_average_that_cannot_be_is_said(tmp_path, capsys):
    assert bench(tmp_path, "--limit", 3, "--keep", "5%", "--methods", "fastv") == 2
    assert "the layers before the first stage alone make an average of" in capsys.readouterr().err
