"""The page in a real browser; pictures of it go to out/demo."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the page is tested by make test-demo")
pytest.importorskip("selenium", reason="the page is tested by make test-demo")

from selenium.webdriver.common.keys import Keys

from sparevlm import hf
from sparevlm.demo.explorer import Explorer
from sparevlm.demo.scenes import examples
from tests.demo.browser import browser, served, until


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("page")) as url:
        yield url


@pytest.fixture(scope="module")
def explorer() -> Explorer:
    return Explorer(*hf.load("pocket"))


@pytest.fixture
def visitor(address):
    with browser() as someone:
        someone.open(address)
        yield someone


def test_begins_with_an_answer(visitor, explorer) -> None:
    first = examples()[0]
    look = explorer.look(first.picture, first.question)
    said = [explorer.said(look, name, 12) for name in ("spare", "divprune")]
    assert visitor.answers() == [look.full.text, *(one.answer.text for one in said)]
    for side, one in zip("ab", said, strict=True):
        assert visitor.kept(side) == one.report.indices.tolist()
    assert visitor.texts(".sv-count") == ["12 of 196 tokens"] * 2
    assert f"the right answer is {first.answer}" in visitor.one(".sv-full").text
    assert re.search(
        r"[\d.]+ ms to the first token, [\d.]+ ms of it choosing", visitor.one("#sv-said-a").text
    )
    assert "of the features\u2019 energy is not explained" in visitor.one(".sv-a .sv-left").text
    assert "Compare with" in visitor.one("#sv-method-b").text
    assert visitor.dim() == []
    assert visitor.complaints() == []
    visitor.shot("begin")


def test_dragging_asks_nobody(visitor, explorer) -> None:
    """The drawing follows in the browser; only the answer comes from the server."""
    first = examples()[0]
    look = explorer.look(first.picture, first.question)
    ranks = explorer.ranks(look, "spare")
    # A server ten seconds away.
    visitor.driver.set_network_conditions(latency=10_000, throughput=2**20)
    for keep in (60, 3, 25):
        visitor.drag(keep)
        counts = [f"{keep} of 196 tokens"] * 2
        until(lambda: visitor.texts(".sv-count") == counts, 3)  # noqa: B023
        expected = [token for token, rank in enumerate(ranks.ranks) if 0 <= rank < keep]
        assert visitor.kept("a") == expected
        shown = float(visitor.one(".sv-a .sv-left").text.split(" ")[0])
        assert shown == pytest.approx(100 * ranks.curve[keep], rel=0.06)


def test_dragging_changes_answers(visitor, explorer) -> None:
    first = examples()[0]
    look = explorer.look(first.picture, first.question)
    visitor.drag(3)
    until(lambda: "SPARE, 3 tokens" in visitor.one("#sv-said-a").text)
    found = explorer.said(look, "spare", 3).answer.text
    assert visitor.one("#sv-said-a .sv-answer").text == found
    assert visitor.one(".sv-full .sv-answer").text == look.full.text


def test_what_is_out_of_date_is_dim(visitor) -> None:
    """Answers belong to the settings that they were asked with."""
    visitor.driver.set_network_conditions(latency=1500, throughput=2**20)
    visitor.drag(40)
    until(lambda: visitor.texts(".sv-count") == ["40 of 196 tokens"] * 2)
    assert sorted(visitor.dim()) == ["sv-said-a", "sv-said-b"]
    assert "12 tokens" in visitor.one("#sv-said-a").text
    until(lambda: visitor.working() == ["sv-working"])  # one sign of work, not one a part
    assert visitor.one("#sv-working [role=status]").is_displayed()
    visitor.shot("asking")
    until(lambda: not visitor.dim())
    assert "SPARE, 40 tokens" in visitor.one("#sv-said-a").text
    until(lambda: not visitor.working())
    assert not visitor.one("#sv-working [role=status]").is_displayed()
    visitor.drag(41)
    until(lambda: len(visitor.dim()) == 2)
    visitor.drag(40)  # back to what was answered
    until(lambda: not visitor.dim())


def test_a_question_that_is_not_asked_yet_makes_answers_dim(visitor) -> None:
    box = visitor.one("#sv-question textarea")
    parts = [
        "sv-full",
        *(f"sv-{part}-{side}" for part in ("said", "panel") for side in "ab"),
        "sv-curve",
    ]
    box.send_keys("x")
    until(lambda: sorted(visitor.dim()) == sorted(parts))
    box.send_keys(Keys.BACKSPACE)
    until(lambda: not visitor.dim())
    box.send_keys(Keys.ENTER)
    until(lambda: not visitor.working() and not visitor.dim())


def test_another_method_makes_its_side_dim(visitor) -> None:
    visitor.driver.set_network_conditions(latency=1500, throughput=2**20)
    choose = visitor.one("#sv-method-b input")
    choose.send_keys(Keys.CONTROL + "a")
    choose.send_keys("uniform" + Keys.ENTER)
    until(lambda: sorted(visitor.dim()) == ["sv-curve", "sv-panel-b", "sv-said-b"])
    visitor.drag(50)  # meanwhile
    until(lambda: "UniformGrid, 50 tokens" in visitor.one("#sv-said-b").text)
    until(lambda: not visitor.dim())
    assert visitor.texts(".sv-count") == ["50 of 196 tokens"] * 2  # the slider stayed
    assert visitor.one("#sv-keep input[type=number]").get_attribute("value") == "50"


def test_says_what_the_model_is_worth(visitor) -> None:
    about = visitor.one("#sv-about").text
    assert "answers to a photograph is worth nothing" in about
    assert "SPARE loses to DivPrune here" in about
    assert not visitor.all(".sv-worth")  # of a drawn scene the answer is worth what it says


def test_both_methods_are_in_the_first_screen(address) -> None:
    with browser(1280, 800) as someone:
        someone.open(address)
        both = ("#sv-method-", ".sv-panel.sv-", "#sv-said-")
        sides = [part + side for part in both for side in "ab"]
        for part in ("#sv-question button", "#sv-keep", "#sv-full", *sides):
            box = someone.box(part)
            assert 0 <= box["top"] < box["bottom"] <= 800 and box["width"] > 20, part
        someone.shot("first-screen")


def test_a_phone_begins_with_pictures_and_slider(address) -> None:
    with browser(390, 844) as someone:
        someone.open(address)
        parts = ("#sv-keep", ".sv-a svg", ".sv-b svg")
        assert all(
            0 <= someone.box(part)["top"] < someone.box(part)["bottom"] <= 844 for part in parts
        )
        answers, settings = someone.box("#sv-said-a"), someone.box("#sv-picture")
        assert someone.box(".sv-a svg")["bottom"] < answers["top"] < settings["top"]
        someone.shot("first-screen-phone")


@pytest.mark.parametrize("width", [320, 390, 641, 800, 1024, 1279, 1280])
def test_text_in_plots_is_legible(address, width) -> None:
    script = (
        "return [...document.querySelectorAll('.sv-curve text, .sv-numbers text')]"
        ".filter((t) => t.textContent && t.getClientRects().length && t.getScreenCTM())"
        ".map((t) => [t.textContent, parseFloat(getComputedStyle(t).fontSize)"
        " * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b)])"
    )
    with browser(width, 900) as someone:
        someone.open(address)
        someone.all("#sv-view input[type=radio]")[1].click()
        until(lambda: "from yellow" in someone.one(".sv-a .sv-view").text)
        found = someone.driver.execute_script(script)
        assert {"SPARE", "DivPrune", "visual tokens kept"} <= {text for text, _ in found}
        assert min(size for _, size in found) >= 11, found
        numbers = [text for text, _ in found if text == "12"]
        assert len(numbers) == (2 if width == 1280 else len(numbers))


def test_methods_with_other_settings(tmp_path, explorer) -> None:
    words = ("--set", "spare.guidance=none", "--set", "spare.exponent=1")
    with served(tmp_path, *words) as url, browser() as someone:
        someone.open(url)
        name = "SPARE(guidance='none', exponent=1)"
        assert f"{name}, 12 tokens" in someone.one("#sv-said-a").text
        assert name in someone.one(".sv-a figcaption").text
        first = examples()[0]
        other = Explorer(*hf.load("pocket"), fields={"spare": {"guidance": "none", "exponent": 1}})
        said = other.said(other.look(first.picture, first.question), "spare", 12)
        assert someone.kept("a") == said.report.indices.tolist()


def test_keyboard(visitor) -> None:
    slider = visitor.one("#sv-keep input[type=range]")
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    until(lambda: visitor.texts(".sv-count") == ["15 of 196 tokens"] * 2)
    until(lambda: "SPARE, 15 tokens" in visitor.one("#sv-said-a").text)
    assert slider.get_attribute("aria-label")
    assert "15 of 196" in visitor.one(".sv-a svg").get_attribute("aria-label")
    for control in visitor.all("button, input, textarea"):
        named = ("aria-label", "title", "placeholder", "aria-labelledby")
        label = control.text or any(control.get_attribute(name) for name in named)
        owner = visitor.driver.execute_script("return arguments[0].closest('label')", control)
        assert label or owner, control.get_attribute("outerHTML")


def test_views(visitor) -> None:
    choices = visitor.all("#sv-view input[type=radio]")
    choices[1].click()
    script = (
        "return [...document.querySelectorAll('.sv-a .sv-numbers text')]"
        ".map((t) => t.textContent).filter(Boolean).map(Number)"
    )
    until(lambda: sorted(visitor.driver.execute_script(script)) == list(range(1, 13)))
    visitor.shot("order")
    choices[2].click()
    until(lambda: "low score" in visitor.one(".sv-a .sv-view").text)
    assert "gives no scores" in visitor.one(".sv-b .sv-view").text
    visitor.shot("scores")


def test_another_method_beside(visitor, address) -> None:
    visitor.open(f"{address}?methods=fastervlm,visionzip&keep=9&picture=dense-2")
    assert [line.split(",")[0] for line in visitor.texts(".sv-said strong")[1:]] == [
        "FasterVLM", "VisionZip",
    ]  # fmt: skip
    until(lambda: len(visitor.kept("b")) == 9)
    visitor.open(f"{address}?methods=visionzip,fastervlm&keep=9&picture=dense-2")
    drawn = visitor.one("#sv-curve").get_attribute("innerHTML")
    assert "#d55e00" in drawn and "#0072b2" not in drawn  # the line's colour is its side's
    visitor.open(f"{address}?methods=fastervlm,visionzip&keep=9&picture=dense-2")
    visitor.drag(30)  # VisionZip has no order for all budgets: it is asked
    until(lambda: len(visitor.kept("b")) == 30)
    assert len(visitor.kept("a")) == 30


def test_the_address_is_the_settings(visitor, address) -> None:
    visitor.all("#sv-examples button, #sv-examples .gallery-item")[4].click()
    until(lambda: "plain-3" in visitor.driver.current_url)
    visitor.drag(40)
    until(lambda: "SPARE, 40 tokens" in visitor.one("#sv-said-a").text)
    shared = visitor.driver.current_url
    settings = parse_qs(urlsplit(shared).query)
    assert settings["keep"] == ["40"] and settings["methods"] == ["spare,divprune"]
    with browser() as other:
        other.open(shared)
        assert other.answers() == visitor.answers()
        assert other.kept("a") == visitor.kept("a")
        value = other.one("#sv-question textarea").get_attribute("value")
        assert value == examples()[4].question


def test_an_upload(visitor, explorer, tmp_path) -> None:
    picture = Image.open("examples/scene.png").convert("RGB").rotate(90)
    picture.save(tmp_path / "mine.png")
    visitor.upload(tmp_path / "mine.png")
    question = "what color is the star ?"
    visitor.ask(question)
    look = explorer.look(picture, question)
    said = explorer.said(look, "spare", 12)
    until(lambda: visitor.kept("a") == said.report.indices.tolist())
    assert visitor.answers()[:2] == [look.full.text, said.answer.text]
    assert "the right answer" not in visitor.one(".sv-full").text
    assert "knows drawn scenes only" in visitor.one(".sv-full .sv-worth").text
    assert "picture" not in parse_qs(urlsplit(visitor.driver.current_url).query)
    visitor.shot("upload")


def test_a_broken_upload_is_a_sentence(visitor, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture" * 50)
    visitor.upload(broken)
    refusal = visitor.refusal()
    assert "this file" in refusal.lower() and "/" not in refusal
    until(lambda: not visitor.broken())
    visitor.shot("broken")
    assert visitor.texts("[role=alert].sv-refused")  # the picture goes, the sentence stays
    visitor.all("#sv-examples button, #sv-examples .gallery-item")[1].click()
    assert visitor.answers()  # and it goes on


def test_a_bomb_is_a_sentence(visitor, tmp_path) -> None:
    """Few bytes, 400 million pixels."""
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    visitor.upload(tmp_path / "bomb.png")
    assert "too many pixels" in visitor.refusal()


def test_a_huge_upload_is_a_sentence(visitor, tmp_path) -> None:
    huge = tmp_path / "huge.png"
    with huge.open("wb") as stream:
        stream.truncate(21 * 2**20)
    visitor.upload(huge)
    until(
        lambda: "size" in " ".join(visitor.texts("[data-testid=toast-body], .toast-body")).lower()
    )
    visitor.shot("huge")


def test_an_empty_question_is_a_sentence(visitor) -> None:
    visitor.ask(" ")
    assert "question is empty" in visitor.refusal()


def test_a_budget_that_cannot_be_is_a_sentence(visitor, address) -> None:
    visitor.driver.get(f"{address}?methods=spare,fastv&keep=12")
    assert "keep more" in visitor.refusal()
    assert len(visitor.texts(".sv-answer")) == 2  # the other one answers all the same
    visitor.shot("refused")
    visitor.drag(150)
    until(lambda: "FastV, 150 tokens on average" in visitor.one("#sv-said-b").text)
    last = int(visitor.one("#sv-said-b strong").text.split(", ")[-1].split()[0])
    until(lambda: len(visitor.kept("b")) == last)


def test_two_visitors_do_not_meet(visitor, address, explorer, tmp_path) -> None:
    second = examples()[1]
    secret, question = Image.open("examples/scene.png").convert("RGB"), "how many are red ?"
    secret.save(tmp_path / "secret.png")
    visitor.upload(tmp_path / "secret.png")
    visitor.ask(question)
    mine = explorer.said(explorer.look(secret, question), "spare", 12).report.indices.tolist()
    until(lambda: visitor.kept("a") == mine)
    with browser() as other:
        other.open(f"{address}?picture={second.name}")
        look = explorer.look(second.picture, second.question)
        assert other.answers()[0] == look.full.text
        other.drag(20)
        until(lambda: "SPARE, 20 tokens" in other.one("#sv-said-a").text)
        assert "secret" not in other.driver.page_source
    assert visitor.kept("a") == mine
    assert visitor.texts(".sv-count") == ["12 of 196 tokens"] * 2


def test_nothing_is_loaded_from_elsewhere(address) -> None:
    with browser() as someone:
        someone.open(address)
        someone.drag(50)
        until(lambda: "SPARE, 50 tokens" in someone.one("#sv-said-a").text)
        asked = [urlsplit(url) for url in someone.requested()]
        hosts = {url.hostname for url in asked if url.scheme not in ("data", "blob")}
        assert hosts == {"127.0.0.1"}


def test_uploads_are_no_public_files(visitor, address) -> None:
    """Only what the page itself made or was given can be fetched."""
    for path in ("/etc/passwd", "../../etc/passwd"):
        status = visitor.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "fetch(arguments[0]).then((r) => done(r.status));",
            f"{address}gradio_api/file={path}",
        )
        assert status in (403, 404)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits(address, width, dark) -> None:
    with browser(width, 1400 if width > 600 else 2600, dark=dark) as someone:
        someone.open(address)
        wide = someone.driver.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width
        lightness = someone.driver.execute_script(
            "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"
        )
        assert (sum(map(int, lightness)) < 3 * 128) == dark
        someone.shot(f"{'phone' if width < 600 else 'wide'}-{'dark' if dark else 'light'}")
