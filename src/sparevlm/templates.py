"""Chat templates: what the user asks last, told by the tokens that mark turns.

Marks are tokens of their own, so that words of a question are never taken for one. A template
without such tokens ("USER: ... ASSISTANT:") is read as text, by its exact spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

_MARK = "\x01"  # before and after a token that is a mark


def _token(*names: str) -> str:
    """Pattern of one of several marks."""
    return _MARK + "(?:" + "|".join(map(re.escape, names)) + ")" + _MARK


def _turn(begins: str, *ends: str) -> str:
    """Pattern of a user's turn; `text` is what it says."""
    return rf"{begins}(?P<text>.*?)(?={'|'.join((*ends, chr(92) + 'Z'))})"


_LINE = rf"(?:\A|[\n{_MARK}])"  # where a turn without a token begins
CHATML = _turn(_token("<|im_start|>") + r"user\s", _token("<|im_end|>", "<|im_start|>"))
GEMMA = _turn(_token("<start_of_turn>", "<|turn>") + r"user\n", _token("<end_of_turn>", "<turn|>"))
HEADER = _turn(
    _token("<|start_header_id|>") + "user" + _token("<|end_header_id|>"),
    _token("<|eot_id|>", "<|start_header_id|>"),
)
COHERE = _turn(
    _token("<|USER_TOKEN|>"),
    _token("<|END_OF_TURN_TOKEN|>", "<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"),
)
GLM4 = _turn(
    _token("<|user|>"), _token("<|assistant|>", "<|user|>", "<|system|>", "<|observation|>")
)
KIMI = _turn(
    _token("<|im_user|>") + "[^" + _MARK + "]*" + _token("<|im_middle|>"), _token("<|im_end|>")
)
MISTRAL = _turn(
    rf"(?:{_token('[INST]')}|(?:\A|(?<=[\s{_MARK}]))\[INST\])", _token("[/INST]"), r"\[/INST\]"
)
VICUNA = _turn(r"(?:\A|(?<=[\s\x01]))USER:", r"\sASSISTANT:", _token("</s>"))
HUMAN = _turn(r"###\s?Human:", r"\s*###\s?Assistant:")
UTTERANCE = rf"{_LINE}\s?User:(?P<text>.*?)(?={_token('<end_of_utterance>')})"
NAMES = _turn(rf"{_LINE}\s?User:", r"\s*\nAssistant:")
WORDS = _turn(r"(?:\A|(?<=[\s\x01]))user :", r"\sassistant :", _token("</s>"))
"""Of tokenizers that know words alone, the pocket model's among them."""

PLAIN = (MISTRAL, VICUNA, HUMAN, UTTERANCE, NAMES, WORDS)
"""Templates whose marks may be plain text."""

_ANY_MARK = re.compile(
    f"{_token('<|media_begin|>')}[^{_MARK}]*{_token('<|media_content|>')}"  # Kimi: its kind
    f"|{_MARK}[^{_MARK}]*{_MARK}"
)
_LIKE_A_MARK = re.compile(r"<.+>|\[.+\]")
_TOOL = re.compile(rf"\s*{_MARK}?<tool_response>")


_KNOWN: WeakKeyDictionary[Any, tuple[int, dict[int, str]]] = WeakKeyDictionary()


def question_of(tokenizer: Any, ids: Iterable[int], templates: tuple[str, ...]) -> str:
    """The last thing that the user asks in a prompt.

    Parameters
    ----------
    tokenizer
        The language model's.
    ids : iterable of int
        Token ids of the prompt; placeholders of pictures may be among them.
    templates : tuple of str
        Patterns of a user's turn, from `sparevlm.templates`; the first that is met counts.

    Returns
    -------
    str
        Without marks; the whole text where no turn is marked.
    """
    text = _marked(tokenizer, list(ids))
    for template in templates:
        turns = [
            turn["text"]
            for turn in _pattern(template).finditer(text)
            if not _TOOL.match(turn["text"])  # what a tool said comes in a user's turn
        ]
        if turns:
            return next((said for turn in reversed(turns) if (said := _plain(turn))), "")
    return _plain(text)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(template, re.DOTALL)


def _plain(text: str) -> str:
    return _ANY_MARK.sub(" ", text).strip()


def _marked(tokenizer: Any, ids: list[int]) -> str:
    """The text of a prompt with its marks between `_MARK`s, which no text can forge."""
    marks = _marks(tokenizer)
    pieces: list[str] = []
    words: list[int] = []
    for token in [*ids, None]:
        if token is not None and token not in marks:
            words.append(token)
            continue
        if words:
            pieces.append(str(tokenizer.decode(words)).replace(_MARK, " "))
            words = []
        if token is not None:
            pieces.append(f"{_MARK}{marks[token]}{_MARK}")
    return "".join(pieces)


def _marks(tokenizer: Any) -> dict[int, str]:
    """Tokens that are no text, by id; looked for once, and again when the vocabulary has grown."""
    size = len(tokenizer)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != size:
        known = _KNOWN[tokenizer] = size, _find_marks(tokenizer)
    return known[1]


def _find_marks(tokenizer: Any) -> dict[int, str]:
    special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False)
    marks = {int(i): str(token) for i, token in special}
    for i, added in getattr(tokenizer, "added_tokens_decoder", {}).items():
        text = str(getattr(added, "content", added))
        if getattr(added, "special", False) or _LIKE_A_MARK.fullmatch(text):
            marks[int(i)] = text
    return marks
