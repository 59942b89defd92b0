"""The page in a real browser; pictures of it go to out/demo."""

from __future__ import annotations

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
    visitor.open(f"{address}?methods=fastervlm,visionzip&keep=9&picture=dense-1")
    assert [line.split(",")[0] for line in visitor.texts(".sv-said strong")[1:]] == [
        "FasterVLM", "VisionZip",
    ]  # fmt: skip
    until(lambda: len(visitor.kept("b")) == 9)
    visitor.drag(30)  # VisionZip has no order for all budgets: it is asked
    until(lambda: len(visitor.kept("b")) == 30)
    assert len(visitor.kept("a")) == 30


def test_the_address_is_the_settings(visitor, address) -> None:
    visitor.all("#sv-examples button, #sv-examples .gallery-item")[3].click()
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
        assert value == examples()[3].question


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
    assert "right:" not in visitor.one(".sv-full").text
    assert "picture" not in parse_qs(urlsplit(visitor.driver.current_url).query)
    visitor.shot("upload")


def test_a_broken_upload_is_a_sentence(visitor, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"no picture" * 50)
    visitor.upload(broken)
    refusal = visitor.refusal()
    assert "this file" in refusal.lower() and "/" not in refusal
    visitor.shot("broken")
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
