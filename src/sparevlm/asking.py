"""One question about pictures, put to a model that runs here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import StoppingCriteria

from sparevlm.chat import tokenized

if TYPE_CHECKING:
    from PIL import Image

    from sparevlm.hf import ImageReport


@dataclass(frozen=True)
class Answer:
    """What a model said.

    Attributes
    ----------
    text : str
    first_ms : float
        Milliseconds until the first token: vision encoder, selection and prefill.
    report : list of ImageReport
        What was pruned for it; empty without pruning.
    """

    text: str
    first_ms: float
    report: list[ImageReport]


class FirstToken(StoppingCriteria):
    """Stops nothing, and notes when the first new token of a `generate` call is there."""

    def __init__(self) -> None:
        self.when = 0.0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        """See `StoppingCriteria`."""
        if not self.when:
            input_ids[:, -1].tolist()  # a GPU is waited for
            self.when = time.perf_counter()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def prepare(model: Any, processor: Any, pictures: Sequence[Image.Image], question: str) -> Any:
    """Tokens and pixels of one prompt: all pictures, then the question.

    Raises
    ------
    ValueError
        If the question is empty, or holds the model's mark for a picture.
    """
    if not question.strip():
        raise ValueError("the question is empty: ask something about the picture")
    mark = getattr(processor, "image_token", None)
    if mark and mark in question:
        raise ValueError(f"the question holds {mark!r}, the model's mark for a picture: remove it")
    content: list[dict[str, str]] = [{"type": "image"} for _ in pictures]
    content.append({"type": "text", "text": question})
    messages = [{"role": "user", "content": content}]
    return tokenized(processor, [messages], [list(pictures)]).to(model.device, model.dtype)


def unknown_words(processor: Any, question: str) -> list[str]:
    """Words of a question that the model's tokenizer has no token for."""
    tokenizer = processor.tokenizer
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return []
    return [
        word
        for word in question.split()
        if unknown in tokenizer(word, add_special_tokens=False)["input_ids"]
    ]


def answer(
    model: Any, processor: Any, inputs: Any, max_new_tokens: int, handle: Any = None
) -> Answer:
    """Answer greedily, after a short warm-up of the same kind.

    Parameters
    ----------
    model, processor, inputs
        As `sparevlm.load` and `prepare` give them.
    max_new_tokens : int
        Longest answer, in tokens.
    handle : Attached or None
        What prunes the model meanwhile.
    """
    options = {"do_sample": False, "num_beams": 1}
    model.generate(**inputs, **options, max_new_tokens=2)
    clock, start = FirstToken(), time.perf_counter()
    ids = model.generate(
        **inputs, **options, max_new_tokens=max_new_tokens, stopping_criteria=[clock]
    )
    new = ids[0, inputs["input_ids"].shape[1] :]
    text = processor.tokenizer.decode(new, skip_special_tokens=True).strip()
    return Answer(text, 1000 * (clock.when - start), list(handle.report) if handle else [])
