"""Chats as the tensors that a model is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# They take pictures one after the other; a list of them would be pages of one picture.
_FLAT = ("GotOcr2Processor",)


def tokenized(processor: Any, chats: Sequence[Any], pictures: Any) -> Any:
    """Tokens and pixels of chats, one row each, padded on the left.

    Parameters
    ----------
    processor
        Of a transformers model, with a chat template.
    chats : sequence of lists of messages
        As `apply_chat_template` takes them, pictures as {"type": "image"}.
    pictures : list of pictures, or of a list for each chat, or None
        As the processor takes them.

    Returns
    -------
    BatchFeature
        Without labels, which some processors make up.
    """
    prompts = [processor.apply_chat_template(c, add_generation_prompt=True) for c in chats]
    begin = processor.tokenizer.bos_token
    begun = bool(begin) and all(prompt.startswith(begin) for prompt in prompts)
    if pictures and any(kind.__name__ in _FLAT for kind in type(processor).__mro__):
        rows = [row if isinstance(row, list | tuple) else [row] for row in pictures]
        pictures = [picture for row in rows for picture in row]
    side, processor.tokenizer.padding_side = processor.tokenizer.padding_side, "left"
    try:
        inputs = processor(
            images=pictures,
            text=prompts,
            padding=True,
            return_tensors="pt",
            **({"add_special_tokens": False} if begun else {}),  # the template has put them
        )
    finally:
        processor.tokenizer.padding_side = side
    inputs.pop("labels", None)  # PaliGemma's
    return inputs
