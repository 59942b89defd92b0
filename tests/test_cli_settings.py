"""What the guides recommend can be said on the command line: any setting, and budgets by error."""

from __future__ import annotations

import json

import pytest

from sparevlm import cli
from sparevlm.budgets import Residual, read_budget, read_budgets, written_budget
from sparevlm.commands.fields import read_set
from sparevlm.evaluation import make_settings
from sparevlm.methods import DivPrune, get_method
from sparevlm.pocket.scenes import draw_scene

QUESTION = "what color is the heart ?"


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("scene") / "5.png"
    draw_scene(5).picture().save(path)
    return str(path)


@pytest.fixture
def ask(scene, capsys):
    """Run `ask` on the pocket model: exit code, what it printed, and what it said besides."""

    def run(*words) -> tuple[int, dict, str]:
        code = cli.main(["ask", scene, QUESTION, "--json", "--max-new-tokens", "2", *words])
        out, err = capsys.readouterr()
        return code, json.loads(out) if code == 0 else {}, err

    return run


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("Residual(0.05)", Residual(0.05)),
        (" residual( error=0.1, minimum=8 ) ", Residual(0.1, minimum=8)),
        ("Residual(0.1, 8, 64)", Residual(0.1, 8, 64)),
        ("64", 64),
        ("6%", 0.06),
    ],
)
def test_budgets_as_text(text, budget):
    assert read_budget(text) == budget
    assert read_budget(written_budget(budget)) == budget


def test_several_budgets():
    found = read_budgets("11%,Residual(0.1, minimum=8),64")
    assert found == [0.11, Residual(0.1, minimum=8), 64]


@pytest.mark.parametrize("text", ["Residual(2)", "Residual(0.1, 0)", "residual(-1)"])
def test_an_error_that_cannot_be(text):
    with pytest.raises(ValueError, match="Residual"):
        read_budget(text)


@pytest.mark.parametrize("text", ["Residual(", "Residual(x)", "Residual(1,2,3,4)", "Residual(a=1)"])
def test_what_is_no_budget_is_for_the_method_to_refuse(text):
    assert read_budget(text) == text
    with pytest.raises(ValueError, match="is no budget"):
        DivPrune(text)


def test_set_reads_values():
    given = [
        "strength=0.5",
        "per=prompt",
        "spare.normalize=True",
        "winsorize=none",
        "guidance=none",
    ]
    assert read_set(given, ["spare", "divprune"]) == {
        "spare": {
            "strength": 0.5,
            "per": "prompt",
            "normalize": True,
            "winsorize": None,
            "guidance": "none",
        },
        "divprune": {"per": "prompt"},
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("strength", "give a name and a value"),
        ("=3", "give a name and a value"),
        ("keep=3", "the budget is --keep"),
        ("stength=3", "no such setting; divprune has per, positions"),
        ("spare.strength=1", "spare is none of divprune"),
        ("sprae.strength=1", "did you mean 'spare'"),
    ],
)
def test_set_that_cannot_be(given, said):
    with pytest.raises(ValueError, match=said):
        read_set([given], ["divprune"])


def test_ask_takes_any_setting(ask):
    _, plain, _ = ask()
    code, found, err = ask("--set", "guidance=none", "--set", "exponent=1", "--keep", "16")
    assert code == 0 and err == "" and found["kept_tokens"] == 16 != plain["kept_tokens"]
    code, _, err = ask("--set", "strength=7")
    assert code == 2 and "from 0 to 1" in err


def test_ask_takes_a_budget_by_error(ask):
    code, found, err = ask("--keep", "Residual(0.2)")
    assert code == 0 and err == "" and 1 < found["kept_tokens"] < 196
    code, _, err = ask("--keep", "Residual(0.2)", "--method", "divprune")
    assert code == 2 and "knows no residual" in err


def test_more_than_there_are(ask):
    code, found, err = ask("--keep", "9999")
    assert code == 0 and found["kept_tokens"] == 196
    assert err == (
        "sparevlm: warning: --keep 9999: the picture has 196 tokens, and all of them stay\n"
    )


def test_a_file_is_replaced_only_when_asked(ask, tmp_path):
    path = tmp_path / "kept.png"
    path.write_text("mine")
    code, _, err = ask("--save", str(path))
    assert code == 2 and f"{path} exists" in err and "--force" in err
    assert path.read_text() == "mine"
    code, _, _ = ask("--save", str(path), "--force")
    assert code == 0 and path.read_bytes()[:4] == b"\x89PNG"


def test_a_mistyped_method(ask):
    code, _, err = ask("--method", "sprae")
    assert code == 2 and "did you mean 'spare'?" in err


def test_nothing_prints_help(capsys):
    assert cli.main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: sparevlm") and err == ""


def test_settings_of_a_bench():
    made = make_settings(["spare"], [Residual(0.1), 8], 2, {"spare": {"strength": 1}})
    spare = [one for one in made if one.name == "spare"]
    assert [one.budget for one in spare] == ["Residual(0.1)", "8"]
    assert all(one.method.strength == 1.0 for one in spare)
    with pytest.raises(ValueError, match="knows no residual"):
        make_settings(["divprune"], [Residual(0.1)], 2)


def test_a_bench_with_settings(tmp_path, capsys):
    words = ["bench", "--out", str(tmp_path / "run"), "--limit", "3", "--keep", "8"]
    assert cli.main([*words, "--set", "strength=0"]) == 0
    assert "report.html" in capsys.readouterr().out
    about = json.loads((tmp_path / "run" / "results.json").read_text())["about"]
    assert about["settings"] == {"spare": {"strength": 0}}
    assert cli.main([*words, "--set", "strength=1"]) == 2  # another run
    said = (tmp_path / "run" / "report.md").read_text()
    assert "3 questions, " in said and "Fewer than 10 questions give no interval" in said
    assert "[+" not in said and "[-" not in said


def test_by_place_is_a_fact_of_the_class():
    assert get_method("uniform", 4).by_place and not get_method("spare", 4).by_place


@pytest.fixture
def page_without_gradio(monkeypatch):
    """The command as far as it comes where the page itself cannot be made."""
    import sys
    import types

    from sparevlm import hf
    from sparevlm.commands import demo

    def no_model(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(demo, "find_spec", lambda name: True)
    monkeypatch.setattr(hf, "load", no_model)
    monkeypatch.setitem(sys.modules, "sparevlm.demo.page", types.ModuleType("page"))
    for name in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("spare.strength=9", "SPARE(strength=9.0): strength must be a number from 0 to 1"),
        ("strenght=0.5", "has no such setting"),
        ("bogus.x=1", "no method is named 'bogus'"),
        ("keep=3", "the budget is --keep"),
        ("spare.per=tile", "per='tile' cannot be shown"),
        ("strength", "give a name and a value"),
    ],
)
def test_the_page_checks_settings_first(page_without_gradio, capsys, setting, said) -> None:
    assert cli.main(["demo", "--set", setting]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == 1


def test_the_page_goes_on_with_good_settings(page_without_gradio, capsys) -> None:
    assert cli.main(["demo", "--set", "strength=0.5", "--set", "fastv.layer=1"]) != 0
    assert "a model was loaded" in capsys.readouterr().err
