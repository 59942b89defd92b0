"""A few questions of a run with their pictures: what each method kept, and what was said."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sparevlm import viz
from sparevlm.evaluation.loop import Answered, Setting
from sparevlm.evaluation.statistics import same
from sparevlm.evaluation.tasks import Item

FOLDER = "pictures"
SIDE = 224  # pixels of a drawn picture's longer side
QUESTIONS = 6


@dataclass(frozen=True)
class Gallery:
    """Draws the first questions of a run for the settings of its last budget, as they are answered.

    Attributes
    ----------
    folder : Path
        Where the drawings are kept until the report takes them in.
    rows : frozenset of int
    settings : frozenset of str
        Keys.
    processor : Any
        Says what part of a picture the patches cover.
    """

    folder: Path
    rows: frozenset[int]
    settings: frozenset[str]
    processor: Any

    def draw(self, setting: Setting, item: Item, picture: Image.Image, seen: Sequence[Any]) -> None:
        """Keep a drawing of what a setting left of a picture; `seen` are its reports."""
        if item.row not in self.rows or setting.key not in self.settings:
            return
        if len(seen) == 1 and seen[0].grid is not None:
            picture = viz.overlay(picture, seen[0], self.processor)
        elif setting.method is not None:
            return  # several pictures, or no grid of patches to draw
        picture = picture.convert("RGB")
        picture.thumbnail((SIDE, SIDE))
        self.folder.mkdir(exist_ok=True)
        viz.save(picture, self._file(setting, item))

    def _file(self, setting: Setting, item: Item) -> Path:
        name = f"{setting.name} {setting.budget}".strip().replace("%", "").replace(" ", "-")
        return self.folder / f"{item.row}-{name}.jpg"

    def page(
        self, items: Sequence[Item], settings: Sequence[Setting], answers: Sequence[Answered]
    ) -> str:
        """HTML: a table with a row a question and a column a setting."""
        chosen = [s for s in settings if s.key in self.settings]
        said = {(a.setting, a.row): a.said for a in answers}
        lines = []
        for item in (item for item in items if item.row in self.rows):
            right = html.escape(" or ".join(item.answers))
            cells = [f"<th>{html.escape(item.question)}<br><b>{right}</b></th>"]
            for setting in chosen:
                answer = said.get((setting.key, item.row))
                if answer is None:
                    cells.append("<td></td>")
                    continue
                mark = "&#10003;" if same(answer, item.answers) else "&#10007;"
                words = html.escape(answer) or "<i>nothing</i>"
                cells.append(f"<td>{self._image(setting, item)}{mark} {words}</td>")
            if any("<img" in cell for cell in cells):
                lines.append(f"<tr>{''.join(cells)}</tr>\n")
        if not lines:
            return ""
        names = "".join(f"<th>{html.escape(f'{s.name} {s.budget}')}</th>" for s in chosen)
        return (
            "<h2>Some of the questions</h2>\n<p>The first ones; in bold the right answer. Bright "
            "patches are those that the method keeps at the last budget.</p>\n"
            '<div><table class="gallery">'
            f"<thead><tr><th>question</th>{names}</tr></thead><tbody>\n{''.join(lines)}</tbody></table></div>\n"
        )

    def _image(self, setting: Setting, item: Item) -> str:
        path = self._file(setting, item)
        if not path.exists():
            return ""
        data = base64.b64encode(path.read_bytes()).decode()
        what = html.escape(f"row {item.row}, {setting.key}")
        return f'<img alt="{what}" src="data:image/jpeg;base64,{data}"><br>'


def make_gallery(
    items: Sequence[Item], settings: Sequence[Setting], out: Path, processor: Any
) -> Gallery:
    """The first questions, with all tokens and with each method at the last budget."""
    last = settings[-1].budget
    chosen = [s for s in settings if not s.budget or (s.budget == last and s.seed == 0)]
    return Gallery(
        out / FOLDER,
        frozenset(item.row for item in items[:QUESTIONS]),
        frozenset(s.key for s in chosen if s.name != "no-image"),
        processor,
    )
