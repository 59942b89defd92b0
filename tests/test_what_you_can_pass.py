"""The table of arguments is whole, and the tests that it names try what it says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
import transformers
from transformers import GenerationConfig, GenerationMixin

from sparevlm.families import FAMILIES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "what_you_can_pass.md").read_text()


QUOTING = [line for line in PAGE.splitlines() if line.startswith("| ")]


def rows(heading: str) -> list[list[str]]:
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")][2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def names(cells: list[str]) -> set[str]:
    return set(re.findall(r"`(\w+)`", cells[0]))


def told(heading: str) -> set[str]:
    return {name for cells in rows(heading) for name in names(cells)}


def test_every_argument_of_generate_has_a_row():
    stock = {name for name in vars(GenerationConfig()) if name[0] != "_"}
    stock |= set(inspect.signature(GenerationMixin.generate).parameters) - {"self", "kwargs"}
    assert sorted(stock - told("generate")) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_every_argument_of_forward_has_a_row(family):
    for name in FAMILIES[family].classes:
        cls = getattr(transformers, name, None)
        if cls is None:
            continue
        taken = set(inspect.signature(cls.forward).parameters) - {"self", "kwargs"}
        assert sorted(taken - told("forward")) == [], name


@pytest.mark.parametrize(
    ("arguments", "tests"),
    [(names(cells), cells[2]) for part in ("generate", "forward") for cells in rows(part)
     if len(cells) > 2 and names(cells)],
    ids=lambda value: "-".join(sorted(value)[:2]) if isinstance(value, set) else "",
)  # fmt: skip
def test_the_tests_that_are_named_try_it(arguments, tests):
    text = "".join((ROOT / "tests" / "hf" / name).read_text() for name in tests.split(", "))
    text += "".join(path.read_text() for path in (ROOT / "tests" / "families").glob("*.py"))
    assert sorted(name for name in arguments if name not in text) == []


def test_sentences_that_are_quoted_are_said():
    said = " ".join(
        re.sub(r'"\s*f?"', "", path.read_text())
        for path in (ROOT / "src" / "sparevlm" / "hf").rglob("*.py")
    )
    said = re.sub(r"\s+", " ", re.sub(r'"\s+f?"', "", said))
    for quoted in re.findall(r'"([a-z][^"=]{12,})"', "".join(QUOTING)):
        pattern = re.escape(quoted).replace("prompt's\\ tokens", r"prompt's .{1,12} ?tokens")
        assert re.search(pattern, said), quoted
