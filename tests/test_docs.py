"""What is generated is up to date; what pages show runs, parses and leads somewhere."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import sparevlm
from sparevlm import cli
from sparevlm.commands import known
from sparevlm.commands.listings import described_methods
from sparevlm.evaluation.published import published
from sparevlm.families import FAMILIES, Family
from sparevlm.methods import get_method, list_methods, method_class
from sparevlm.methods.base import _REGISTRY
from sparevlm.tokens import VisualTokens

DOCS = Path(__file__).parents[1] / "docs"


def test_methods():
    made = runpy.run_path(str(DOCS / "make.py"))["text"]()
    assert (DOCS / "methods.md").read_text() == made, "run make docs"
    for name in list_methods(inside=None):
        assert f"\n## {name}\n" in made
        assert method_class(name).keeps in made, name
        assert method_class(name).keeps, name


def test_known_methods():
    assert known.PATH.read_text() == known.written(described_methods()), "run make docs"


def test_models():
    made = runpy.run_path(str(DOCS / "make.py"))["models_text"]()
    assert (DOCS / "models.md").read_text() == made, "run make docs"


def blocks(page: str) -> list[str]:
    """The Python on a page, in order."""
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.S)


# What cannot run block by block has a test of its own below; nothing needs a hub or a server.
APART = {"adding.md"}

PAGES = sorted(page.name for page in DOCS.glob("*.md"))
RUNNING = [page for page in PAGES if blocks(page) and page not in APART]


@pytest.mark.parametrize("page", RUNNING)
def test_python_runs(page, tmp_path, monkeypatch) -> None:
    """The blocks of a page, one after the other, where a reader's examples/ lies."""
    shutil.copytree(DOCS.parent / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": page}
    for number, code in enumerate(blocks(page), 1):
        exec(compile(code, f"{page}, block {number}", "exec"), space)


def test_pages_with_python() -> None:
    assert {"index.md", "how_spare_works.md", "questions.md"} <= set(RUNNING)
    assert all("```" not in re.sub(r"```python\n.*?```", "", (DOCS / page).read_text(), flags=re.S)
               for page in PAGES)  # fmt: skip


def commands(path: Path) -> list[str]:
    """Indented lines that begin with one of our commands, continued lines joined."""
    text = path.read_text().replace("\\\n", " ")
    return re.findall(r"^ {4}(sparevlm .*|make .*)$", text, flags=re.M)


TOP = DOCS.parent
TOLD = [*DOCS.glob("*.md"), TOP / "README.md", TOP / "CONTRIBUTING.md"]


@pytest.mark.parametrize("path", TOLD, ids=lambda path: path.name)
def test_commands_are_understood(path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), flags=re.M))
    for line in commands(path):
        program, *words = shlex.split(line, comments=True)
        if program == "make":
            assert words[0] in targets, line
        else:
            cli._parse(words)


def test_there_are_commands() -> None:
    assert sum(len(commands(path)) for path in TOLD) > 20


@pytest.mark.parametrize("path", [*TOLD, *DOCS.glob("studies/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", path.read_text()):
        found = path.parent / target if target else path
        assert found.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", found.read_text(), flags=re.M)
            names = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in names, f"{target}#{anchor}"


def test_warnings_end_the_build() -> None:
    """MkDocs counts no warning under --quiet, whatever --strict says."""
    (line,) = re.findall(r"-m mkdocs build(.*)", (TOP / "Makefile").read_text())
    assert line.split() == ["--strict"]


def test_every_page_is_in_the_menu() -> None:
    menu = (TOP / "mkdocs.yml").read_text()
    for page in [*PAGES, *(f"studies/{p.name}" for p in DOCS.glob("studies/*.md"))]:
        assert re.search(rf" {re.escape(page)}$", menu, flags=re.M), page


def test_the_api_page_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text()
    assert "`sparevlm.__version__`" in page
    for name in set(sparevlm.__all__) - {"__version__"}:
        found = re.findall(rf"^::: sparevlm(?:\.\w+)*\.{name}$", page, flags=re.M)
        assert len(found) == 1, name


def table(section: str) -> list[list[str]]:
    """The cells of the first table of a section of choosing.md, without bars and stars."""
    text = (DOCS / "choosing.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip(" |*") for cell in row] for row in rows if "---" not in row[0]]


def score(model: str, method: str, budget: str, benchmark: str) -> float:
    wanted = ("CDPruner", model, method, int(budget), benchmark)
    (found,) = (
        cell.score
        for cell in published()
        if (cell.source, cell.model, cell.method, cell.budget, cell.benchmark) == wanted
    )
    return found


def test_published_scores_of_choosing() -> None:
    """They are those that `sparevlm compare` holds."""
    (_, *methods), *chat = table("Chat and general questions")
    seen = 0
    for tokens, *cells in chat:
        for method, cell in zip(methods, cells, strict=False):
            if cell:
                assert score("LLaVA-1.5-7B", method, tokens, "relative") == float(cell)
                seen += 1
    _, *documents = table("Reading, documents, charts")
    for tokens, *cells in documents:
        methods = ["full"] if "all" in tokens else ["CDPruner", "DivPrune", "FastV"]
        budget = tokens.split()[0].replace(",", "")
        for benchmark, cell in zip(("textvqa", "chartqa", "ocrbench"), cells, strict=True):
            for method, value in zip(methods, cell.split(", "), strict=True):
                assert score("Qwen2.5-VL-7B", method, budget, benchmark) == float(value)
                seen += 1
    assert seen == 22 + 30


def test_figures_are_light() -> None:
    figures = list((DOCS / "figures").iterdir())
    assert sum(path.stat().st_size for path in figures) < 300_000
    shown = "".join((DOCS / page).read_text() for page in PAGES)
    assert all(f"(figures/{path.name})" in shown for path in figures)


def test_the_family_of_adding() -> None:
    _, code = blocks("adding.md")
    space: dict[str, object] = {"Family": Family}
    exec(code, space)
    assert space["LLAVA"].classes == FAMILIES["llava"].classes


def test_the_method_of_adding(monkeypatch):
    code, _ = blocks("adding.md")
    try:
        module = types.ModuleType("first_tokens")
        monkeypatch.setitem(sys.modules, "first_tokens", module)
        exec(compile(code, "first_tokens.py", "exec"), module.__dict__)
        features = torch.randn(9, 4)
        candidates = torch.arange(9) % 3 != 0
        found = get_method("first", 4).reduce(VisualTokens(features, candidates=candidates))
        assert found.indices.tolist() == [1, 2, 4, 5]
    finally:
        _REGISTRY.pop("first", None)


def test_the_method_of_adding_passes_what_the_page_promises(tmp_path) -> None:
    code, _ = blocks("adding.md")
    (tmp_path / "first_tokens.py").write_text(code)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    command = "-m pytest -q -p first_tokens -p no:cacheprovider tests/methods/test_registry.py -k"
    done = subprocess.run(
        [sys.executable, *command.split(), "first and not slow"],
        cwd=TOP, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 20
