"""How people write a budget."""

from __future__ import annotations

import re
from typing import Any


def read_budget(text: str) -> Any:
    """Read "64" tokens, "0.1" or "10%" of them.

    Returns
    -------
    int, float or str
        What is no number comes back as it is, for the method to refuse.
    """
    text = text.strip()
    try:
        if re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return text
