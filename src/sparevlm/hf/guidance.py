"""The question of each prompt, and what it is compared with the picture by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from sparevlm.families import Family
from sparevlm.guide import Guide
from sparevlm.relevance import (
    Asked,
    EmbeddingScorer,
    Scorer,
    TowerScorer,
    check_tower,
    load_clip,
    make_scorer,
    tower_name,
)
from sparevlm.templates import question_of
from sparevlm.tokens import Query
from sparevlm.warning import warn

_PROMPTS = 16  # whose questions are remembered


@dataclass(frozen=True, eq=False)
class Guidance:
    """A scorer, and how to read the question off token ids.

    What the latest prompts asked is remembered: many pictures are asked the same.
    """

    scorer: Scorer
    tokenizer: Any
    family: Family
    question: str | None

    @cached_property
    def _asked(self) -> Callable[[tuple[int, ...]], tuple[str | None, Tensor]]:
        return lru_cache(_PROMPTS)(self._question)

    def queries(
        self, pictures: Sequence[tuple[Tensor, Tensor | None, int]], prompts: Mapping[int, Tensor]
    ) -> list[Query | None]:
        """Compare pictures with the questions of their prompts.

        Parameters
        ----------
        pictures : sequence of (Tensor [N, D], Tensor [N, C] or None, int)
            Features, encoder states, and the row of the prompt.
        prompts : mapping of int to Tensor [M], int64
            Of each row the prompt without placeholders and padding.
        """
        asked = {row: self._asked(tuple(ids.tolist())) for row, ids in prompts.items()}
        return self.scorer.queries(
            [Asked(features, hidden, *asked[row]) for features, hidden, row in pictures]
        )

    def _question(self, words: tuple[int, ...]) -> tuple[str | None, Tensor]:
        """What a prompt asks, as text and as token ids."""
        text, ids = self.question, torch.tensor(words, dtype=torch.int64)
        if text is None and self.tokenizer is not None:
            text = self.read(ids)
        if text is not None and self.tokenizer is not None and not self.scorer.needs_text:
            own = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            ids = torch.tensor(own, dtype=torch.int64)
        return text, ids

    def read(self, ids: Tensor) -> str:
        """The last thing that the user asks in a prompt [M], without the template's role marks."""
        return question_of(self.tokenizer, ids.tolist(), self.family.turns)


def make_guidance(
    model: Any, family: Family, compares: Literal["clip", "llm", "llm only"], guide: Guide
) -> Guidance | None:
    """Find what a guide asks for.

    Parameters
    ----------
    model
        A supported transformers model.
    family : Family
        Facts about it.
    compares : "clip", "llm" or "llm only"
        What "auto" means to the method, or that nothing else will do.
    guide : Guide

    Raises
    ------
    ValueError
        If what was asked for by name cannot be had.
    """
    tokenizer = getattr(guide.tokenizer, "tokenizer", guide.tokenizer)
    relevance, clip, question = guide.relevance, guide.clip, guide.question
    if relevance == "none":
        return None
    only = compares == "llm only"
    if only and relevance == "clip":
        raise ValueError(
            "this method compares question and picture within the language model: choose "
            'relevance "llm"'
        )
    if relevance == "llm" or only or (relevance == "auto" and compares == "llm" and clip is None):
        if tokenizer is None:
            with contextlib.suppress(OSError, ValueError):
                tokenizer = _own_tokenizer(model)  # without it all words of the prompt count
        return Guidance(EmbeddingScorer(model.get_input_embeddings()), tokenizer, family, question)
    try:
        scorer = _clip_scorer(model, clip, download=relevance == "clip")
        if tokenizer is None and question is None:
            tokenizer = _own_tokenizer(model)
    except (OSError, ValueError) as error:
        if relevance == "clip" or clip is not None:
            raise ValueError(
                "guidance by the question is not possible: " + " ".join(str(error).split())
            ) from error
        _say_it_is_off(model)
        return None
    return Guidance(scorer, tokenizer, family, question)


def _say_it_is_off(model: Any) -> None:
    why, choice = (
        ("no text tower is known for this vision tower", 'relevance "llm"')
        if tower_name(model) is None
        else ("no matching CLIP is at hand", 'relevance "clip" to download it')
    )
    warn(f'guidance by the question is off, because {why}: choose {choice}, or guidance "none"')


def _clip_scorer(model: Any, clip: Any, *, download: bool) -> TowerScorer:
    if isinstance(clip, TowerScorer):
        return clip
    if clip is not None and not isinstance(clip, str | Path):
        check_tower(clip, model)
        return make_scorer(clip, _tokenizer_of(clip, download=download))
    name = str(clip) if clip is not None else tower_name(model)
    if name is None:
        raise ValueError(
            "no CLIP or SigLIP is known for this vision tower: pass clip=, the model or its name"
        )
    return load_clip(name, model, download=download or clip is not None)


def _tokenizer_of(clip: Any, *, download: bool) -> Any:
    from transformers import AutoTokenizer

    if not getattr(clip, "name_or_path", ""):
        raise ValueError(
            "the CLIP given does not say where it came from, so its tokenizer cannot be loaded: "
            "pass clip=ClipScorer(model, tokenizer), or SiglipScorer, or a name"
        )
    return AutoTokenizer.from_pretrained(clip.name_or_path, local_files_only=not download)


def _own_tokenizer(model: Any) -> Any:
    from transformers import AutoTokenizer

    if not getattr(model, "name_or_path", ""):
        raise ValueError(
            "the model does not say where it came from, so the question cannot be read: "
            "pass tokenizer=processor.tokenizer"
        )
    return AutoTokenizer.from_pretrained(model.name_or_path, local_files_only=True)
