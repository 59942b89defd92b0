"""Docstrings tell every field of a method, and the pages say what all share once."""

from __future__ import annotations

import inspect
import pydoc
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest

import sparevlm
from sparevlm.methods import PickingMethod, PruningMethod, list_methods, method_class
from sparevlm.methods.base import _REGISTRY
from sparevlm.methods.told import PARAMETERS, entries, sections, tell_fields

BASES = [PruningMethod, PickingMethod, sparevlm.DecoderMethod, sparevlm.Staged]
CLASSES = [*BASES, *(method_class(name) for name in list_methods(inside=None))]


def told(cls: type) -> dict[str, str]:
    """What a class says of each field, by its name."""
    found = entries(sections(cls.__doc__ or "")[PARAMETERS])
    return {name: text for names, text in found.items() for name in names.split(", ")}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_is_told_once(cls) -> None:
    names = [
        name for key in entries(sections(cls.__doc__ or "")[PARAMETERS]) for name in key.split(", ")
    ]
    assert sorted(names) == sorted(field.name for field in fields(cls))
    for name, text in told(cls).items():
        head, *words = text.split("\n")
        assert " : " in head and " ".join(words).split(), name


def test_help_has_them_all() -> None:
    text = pydoc.render_doc(sparevlm.SPARE, renderer=pydoc.plaintext)
    for name in ("keep", "guidance", "winsorize", "per", "positions"):
        assert f"\n |  {name} : " in text
    assert "Position ids of what is left" in text


def test_shared_fields_say_the_same() -> None:
    for name in list_methods():
        for field in ("per", "positions"):
            assert told(method_class(name))[field] == told(PruningMethod)[field]
    assert told(sparevlm.RandomTokens)["seed"] == told(sparevlm.ZOOPrune)["seed"]
    assert "tokens keep their positions" in told(sparevlm.FastV)["positions"]


@pytest.fixture
def registry():
    before = dict(_REGISTRY)
    yield
    _REGISTRY.clear()
    _REGISTRY.update(before)


def test_a_class_of_its_own(registry) -> None:
    """Its own words win, other sections stay, and those above it are left as they were."""
    above = PickingMethod.__doc__

    @dataclass(frozen=True)
    class Mine(PickingMethod):
        """Pick.

        Parameters
        ----------
        keep : int
            A count,
            always.

        Notes
        -----
        None of note.
        """

        name: ClassVar[str] = "mine"
        per: str = "image"

    assert list(sections(Mine.__doc__ or "")) == ["", PARAMETERS, "Notes"]
    assert told(Mine)["keep"] == "keep : int\n    A count,\n    always."
    assert list(told(Mine)) == ["keep", "per", "positions"]
    assert sections(Mine.__doc__ or "")["Notes"].strip() == "None of note."
    assert PickingMethod.__doc__ == above
    once = Mine.__doc__
    tell_fields(Mine)
    assert Mine.__doc__ == once


def test_a_class_without_words(registry) -> None:
    class Bare(PickingMethod):
        name: ClassVar[str] = "bare"

    assert Bare.__doc__ is None


def test_the_page_says_what_all_share_once() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    for words in (
        "Position ids of what is left",
        "What one budget covers",
        "Tokens kept per image",
    ):
        assert words not in page
    assert page.count("- `seed`:") == sum(
        "seed" in told(method_class(name)) for name in list_methods(inside=None)
    )
    assert page.count("`per` (") == 1


def test_it_costs_nothing_without_docstrings() -> None:
    """`python -OO` has none."""
    import subprocess

    code = "import sparevlm; assert sparevlm.SPARE.__doc__ is None; sparevlm.SPARE(keep=3)"
    subprocess.run([sys.executable, "-OO", "-c", code], check=True, capture_output=True)


def test_sections_of_a_docstring() -> None:
    doc = inspect.cleandoc("""Head.

    Parameters
    ----------
    a, b : int
        Two.

        Still of both.
    c : float
        One.
    """)
    assert sections(doc)[""] == "Head.\n"
    found = entries(sections(doc)[PARAMETERS])
    assert list(found) == ["a, b", "c"]
    assert found["a, b"].endswith("Still of both.")
