"""What travels with a picture from the front end to the worker, so that they cannot disagree."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from sparevlm.serving.settings import Settings


@dataclass(frozen=True)
class PrunedItem:
    """One picture.

    Attributes
    ----------
    settings : Settings
        With a count as budget.
    total : int
        Tokens that the encoder makes of it.
    """

    settings: Settings
    total: int

    @property
    def count(self) -> int:
        """Tokens that are kept."""
        return int(self.settings.method.keep)  # type: ignore[arg-type]

    @property
    def original(self) -> bool:
        """Whether kept tokens keep their positions in the whole picture."""
        return self.settings.method.positions == "original"

    def to_tensor(self) -> Tensor:
        """As bytes [n], uint8."""
        text = json.dumps({"total": self.total, **self.settings.as_dict()}, sort_keys=True)
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    @classmethod
    def from_tensor(cls, data: Tensor) -> PrunedItem:
        """What `to_tensor` gave."""
        rest = json.loads(bytes(data.tolist()))
        return cls(total=rest.pop("total"), settings=Settings.from_dict(rest))
