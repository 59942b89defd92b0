"""How the user wants the question of a prompt compared with its picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RELEVANCE = ("auto", "clip", "llm", "none")


@dataclass(frozen=True, eq=False)
class Guide:
    """How the user wants the question compared with the picture.

    Attributes
    ----------
    relevance : "auto", "clip", "llm" or "none"
        "clip" loads, and downloads where it must, the text tower; "auto" takes it where it is at
        hand and goes without otherwise; "llm" takes the language model's embeddings.
    clip : CLIPModel, SiglipModel, TowerScorer, str or None
        The matching image-text model or where to load it from; None: found by the vision tower.
    tokenizer
        The language model's tokenizer, or a processor that has one; None: loaded from where the
        model came from.
    question : str or None
        The question of every prompt; None: read off the prompt.

    Raises
    ------
    ValueError
        If `relevance` is none of the four.
    """

    relevance: str = "auto"
    clip: Any = None
    tokenizer: Any = None
    question: str | None = None

    def __post_init__(self) -> None:
        if self.relevance not in RELEVANCE:
            raise ValueError(
                f"relevance={self.relevance!r} is not known: give one of "
                + ", ".join(f'"{word}"' for word in RELEVANCE)
            )
