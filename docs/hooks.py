"""What MkDocs does besides: formulas as MathML, so that no script is loaded, and the changelog."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

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
        formula, inline = html.unescape(found[3]).strip(), found[2] == "("
        math = convert(formula, display="inline" if inline else "block")
        if "\\" in math:
            raise PluginError(f"a command of this formula cannot be drawn: {formula}")
        return math if inline else f'<div class="formula">{math}</div>'

    return _FORMULA.sub(drawn, content)
