"""Which logits a call wants, told by columns of the user's prompt, for the shorter one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NAME = "logits_to_keep"


def asks(kwargs: dict[str, Any]) -> bool:
    """Whether a call wants the logits of some columns only."""
    wanted = kwargs.get(NAME)
    return isinstance(wanted, Tensor) or bool(wanted)


def translated(wanted: int | Tensor, columns: Tensor, length: int) -> int | Tensor:
    """The logits that are wanted, of a prompt that was shortened.

    Parameters
    ----------
    wanted : int or Tensor [n], int64
        The last so many columns of the user's prompt, or these columns.
    columns : Tensor [B, L']
        Which column of the user's prompt each one of the shorter prompt is; ascending, -1 for
        padding. On the CPU.
    length : int
        Columns of the user's prompt.

    Raises
    ------
    ValueError
        If rows would give logits of different columns, or a column was dropped.
    """
    if isinstance(wanted, Tensor):
        return _places(wanted, columns, length)
    if wanted >= length:
        return 0
    asked = columns >= length - wanted
    counts = set(asked.sum(1).tolist())
    if len(counts) > 1 or counts == {0} or not bool(asked[:, -max(counts) :].all()):
        raise ValueError(
            f"{NAME}={wanted} asks for columns that are not the last ones of every row here: it "
            "reaches back into a picture that lost tokens, or rows are padded on the right; ask "
            f"for columns behind the last picture, or for all with {NAME}=0 (handle.columns then "
            "says which is which)"
        )
    return int(counts.pop())


def _places(wanted: Tensor, columns: Tensor, length: int) -> Tensor:
    asked = wanted.detach().cpu()
    if asked.dtype == torch.bool:
        asked = asked.nonzero()[:, 0]
    asked = torch.where(asked < 0, asked + length, asked)
    same = columns[:, None] == asked[:, None]  # [B, n, L']
    places = same.long().argmax(-1)
    if not bool(same.any(-1).all()) or not bool((places == places[:1]).all()):
        lost = asked[~(same.any(-1).all(0) & (places == places[:1]).all(0))].tolist()
        raise ValueError(
            f"{NAME} asks for the columns {lost} of the prompt, which were dropped, or lie at "
            "different places in the rows: ask for columns behind the last picture, or for all "
            f"with {NAME}=0 (handle.columns then says which is which)"
        )
    return places[0].to(wanted.device)
