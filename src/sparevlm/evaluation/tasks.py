"""Questions about pictures with known answers: the pocket model's scenes, or a user's file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from sparevlm.images import open_picture, read_picture

COLUMNS = ("image", "question", "answer")


@dataclass(frozen=True)
class Item:
    """A question about a picture, or several.

    Attributes
    ----------
    row : int
        Its place in the task, from 0.
    question : str
    answers : tuple of str
        Each of them is right.
    skill : str
        What it asks for; "" where the task does not say.
    pictures : callable
        Opens the pictures; raises ValueError where it cannot.
    """

    row: int
    question: str
    answers: tuple[str, ...]
    skill: str
    pictures: Callable[[], list[Image.Image]]


def pocket_items(split: str, limit: int, scenes: str = "plain") -> list[Item]:
    """The first `limit` questions about drawn scenes of one kind."""
    from sparevlm.pocket.questions import sample

    def item(row: int) -> Item:
        scene, question = sample(split, row, scenes)
        return Item(
            row, question.text, (question.answer,), question.skill, lambda: [scene.picture()]
        )

    return [item(row) for row in range(limit)]


def read_items(path: str | Path, limit: int | None = None) -> tuple[list[Item], dict[int, str]]:
    """Read a task from a .jsonl or .parquet file.

    Each row has an image (a path, beside the file if relative; in parquet also bytes; or a list of
    them), a question, an answer (text, or a list of texts that are all right) and perhaps a skill.

    Returns
    -------
    items : list of Item
    odd : dict
        Row number -> why the row is left out.

    Raises
    ------
    ValueError
        If the file is of another kind, lacks a column, or no row of it can be used.
    """
    path = Path(path)
    kinds = {".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix not in kinds:
        raise ValueError(f"{path} is neither .jsonl nor .parquet: give one of these")
    return make_items(kinds[path.suffix](path), limit, folder=path.parent, source=str(path))


def make_items(
    rows: Iterable[Any],
    limit: int | None = None,
    *,
    folder: str | Path = ".",
    source: str = "the task",
) -> tuple[list[Item], dict[int, str]]:
    """Make items of rows, each with image, question, answer and perhaps skill.

    Parameters
    ----------
    rows : iterable of dict
        image: a Pillow image, a path or bytes, or a list of these; question: text; answer: text, or
        a list of texts that are all right. A row that is a text says why there is none.
    folder : str or Path
        What relative paths start from.
    source : str
        What errors call the rows.

    Returns
    -------
    items, odd
        As `read_items` gives them.

    Raises
    ------
    ValueError
        If the first row lacks a column, or no row can be used.
    """
    items, odd = [], {}
    for row, given in enumerate(rows):
        if limit is not None and row >= limit:
            break
        if isinstance(given, str):
            odd[row] = given
            continue
        missing = [name for name in COLUMNS if given.get(name) is None]
        if missing and row == 0:
            raise ValueError(
                f"{source} has no {' and no '.join(missing)} in its first row: it needs "
                f"{', '.join(COLUMNS)}"
            )
        why = f"it has no {missing[0]}" if missing else _odd(given)
        if why:
            odd[row] = why
            continue
        answer = given["answer"]
        answers = (answer,) if isinstance(answer, str) else tuple(answer)
        skill = str(given.get("skill") or "")
        pictures = _opener(given["image"], Path(folder))
        items.append(Item(row, given["question"], answers, skill, pictures))
    if not items:
        why = f": row {min(odd)}: {odd[min(odd)]}" if odd else ""
        raise ValueError(f"{source} holds no question that can be asked{why}")
    return items, odd


def _odd(row: dict[str, Any]) -> str:
    if not isinstance(row["question"], str):
        return "its question is no text"
    if not row["question"].strip():
        return "its question is empty"
    answer = row["answer"]
    several = list(answer) if isinstance(answer, list | tuple) else [answer]
    if not several or not all(isinstance(text, str) for text in several):
        return f"its answer {answer!r} is no text"
    return ""


def _jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                row = f"it is no JSON ({error})"
            yield row if isinstance(row, dict | str) else "it is no JSON object"


def _parquet(path: Path) -> Iterator[Any]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise ValueError("reading parquet needs pyarrow: pip install pyarrow") from None
    for batch in parquet.ParquetFile(path).iter_batches(64):
        yield from batch.to_pylist()


def _opener(image: Any, folder: Path) -> Callable[[], list[Image.Image]]:
    several = image if isinstance(image, list) else [image]
    return lambda: [_open(part, folder) for part in several]


def _open(image: Any, folder: Path) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    data = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(data, bytes):
        return read_picture(data, "of this row")
    name = image.get("path") if isinstance(image, dict) else image
    if not isinstance(name, str | Path):
        raise ValueError("its image is neither a picture, nor a path, nor bytes")
    return open_picture(str(folder / name))
