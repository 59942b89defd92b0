"""What the page asks of a model, without the page."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from PIL import Image

from sparevlm import hf, list_methods
from sparevlm.demo import panel
from sparevlm.demo.explorer import Explorer, Look
from sparevlm.demo.scenes import examples
from sparevlm.methods import get_method, method_class


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(*hf.load("pocket"))


@pytest.fixture(scope="module")
def look(explorer) -> Look:
    return explorer.look(examples()[0].picture, examples()[0].question)


def test_all_tokens(look) -> None:
    assert look.tokens == 196
    assert look.full.text == examples()[0].answer
    assert look.full.first_ms > 0


@pytest.mark.parametrize("name", [n for n in list_methods() if method_class(n).nested])
def test_one_order_is_every_selection(explorer, look, name) -> None:
    """What the slider shows is what the method picks with that budget."""
    ranks = explorer.ranks(look, name)
    for keep in (1, 12, 80):
        shown = [token for token, rank in enumerate(ranks.ranks) if 0 <= rank < keep]
        said = explorer.said(look, name, keep)
        assert shown == said.report.indices.tolist()
        assert ranks.curve[keep] == pytest.approx(said.report.residual, abs=1e-9)
        assert ranks.curve[keep] >= ranks.bound[keep] - 1e-9
    assert (len(ranks.ranks), len(ranks.curve), len(ranks.bound)) == (196, 196, 196)


def test_methods_without_one_order(explorer, look) -> None:
    assert explorer.ranks(look, "visionzip") is None
    assert explorer.ranks(look, "fastv") is None
    assert explorer.said(look, "fastv", 130).report.average == pytest.approx(130, abs=1)


def test_a_budget_that_cannot_be_is_a_sentence(explorer, look) -> None:
    with pytest.raises(ValueError, match="keep more"):
        explorer.said(look, "fastv", 12)


def test_the_model_is_left_alone(explorer, look) -> None:
    explorer.said(look, "spare", 5)
    assert explorer.said(look, "divprune", 5)  # nothing is attached any more
    assert explorer.look(look.picture, look.question).full.text == look.full.text


def test_many_at_once(explorer) -> None:
    """Each gets the answer to his own picture."""
    drawn = examples()
    alone = []
    for example in drawn:
        seen = explorer.look(example.picture, example.question)
        alone.append((seen.full.text, explorer.said(seen, "spare", 30).answer.text))
    found: dict[int, tuple[str, str]] = {}

    def ask(i: int) -> None:
        seen = explorer.look(drawn[i].picture, drawn[i].question)
        found[i] = (seen.full.text, explorer.said(seen, "spare", 30).answer.text)

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(drawn))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(drawn))] == alone
    assert len(set(alone)) > 3


@pytest.mark.parametrize("question", ["", "  ", "what is <image> ?"])
def test_questions_that_cannot_be_asked(explorer, question) -> None:
    with pytest.raises(ValueError, match="question"):
        explorer.look(Image.new("RGB", (40, 40)), question)


def test_preview_is_what_attach_keeps(explorer, look) -> None:
    model, _ = hf.load("pocket")
    method = get_method("divprune", 9)
    (report,) = hf.preview(method, model, look.inputs)
    with method(model) as handle:
        model(**look.inputs)
    assert report.indices.equal(handle.report[0].indices)
    with pytest.raises(ValueError, match="inside the language model"):
        hf.preview(get_method("fastv", 0.9), model, look.inputs)


def test_settings_of_methods(explorer, look) -> None:
    """They decide what is kept and answered, and the method's name says them."""
    fields = {"spare": {"guidance": "none", "exponent": 1}, "divprune": {}}
    other = Explorer(*hf.load("pocket"), fields=fields)
    assert other.label("spare") == "SPARE(guidance='none', exponent=1)"
    assert other.label("divprune") == "DivPrune" and explorer.label("spare") == "SPARE"
    with get_method("spare", 12, guidance="none", exponent=1.0)(hf.load("pocket")[0]) as handle:
        handle.model(**look.inputs)
    kept = other.said(look, "spare", 12).report.indices
    assert kept.equal(handle.report[0].indices)
    assert not kept.equal(explorer.said(look, "spare", 12).report.indices)
    shown = [token for token, rank in enumerate(other.ranks(look, "spare").ranks) if 0 <= rank < 12]
    assert shown == kept.tolist()
    with pytest.raises(ValueError, match="strength must be"):
        Explorer(None, None, fields={"spare": {"strength": 3}})


def test_scenes_flatter_no_method(explorer) -> None:
    """With the page's first budget each of the two is wrong once where the other is right."""
    right = []
    for example in examples()[:4]:
        seen = explorer.look(example.picture, example.question)
        assert seen.full.text == example.answer
        said = [explorer.said(seen, name, 12).answer.text for name in ("spare", "divprune")]
        right.append([text == example.answer for text in said])
    assert right == [[False, True], [True, False], [True, True], [False, False]]


def test_figures_of_the_page_are_those_of_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    text = text.split("\n# ")[0]  # the model that the page shows, not its twin
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    table = {row[0]: row[1:] for row in rows if len(row) == 7}
    found = re.findall(r"([\d.]+) %", panel.ABOUT)
    spare, divprune, random = table["SPARE"], table["DivPrune"], table["random (three seeds)"]
    assert found == [
        table["all 196"][0], spare[3], divprune[3], random[3], spare[2], divprune[2],
    ]  # fmt: skip
    assert float(spare[2]) < float(divprune[2]) and float(spare[3]) < float(divprune[3])
    assert "2,000 test questions about plain scenes" in text and "2,000 questions" in panel.ABOUT
