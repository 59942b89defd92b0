"""What MkDocs does besides: formulas as MathML, so that no script is loaded, and the changelog."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_CHANGELOG = Path(__file__).parents[1] / "CHANGELOG.md"
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the changelog into its page."""
    if page.file.src_uri != "changelog.md":
        return markdown
    return _CHANGELOG.read_text(encoding="utf-8").replace("](docs/", "](")


def on_page_content(content: str, **_: Any) -> str:
    """Replace what arithmatex has marked."""

    def drawn(found: re.Match[str]) -> str:
        formula = html.unescape(found[3]).strip()
        if found[2] == "(":
            return convert(formula, display="inline")
        return f'<div class="formula">{convert(formula, display="block")}</div>'

    return _FORMULA.sub(drawn, content)
