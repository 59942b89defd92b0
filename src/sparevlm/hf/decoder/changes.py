"""What parts of decoder layers do to the length and the direction of each column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sparevlm.hf import stock
from sparevlm.methods.in_decoder import Change

Part = Literal["attention", "feed-forward"]
PARTS: tuple[Part, Part] = ("attention", "feed-forward")


@dataclass(eq=False)
class Recorded:
    """The change of all columns that one part of one layer got: two numbers each.

    Attributes
    ----------
    layer : int
    part : "attention" or "feed-forward"
    ratios, cosines : Tensor [B, L'], float32
        |out| / |in|, and the cosine of in and out.
    left : Tensor [B, L'] or None
        Columns of the call that these are, -1 for padding; None: all.
    """

    layer: int
    part: Part
    ratios: Tensor
    cosines: Tensor
    left: Tensor | None = None

    def of(self, row: int, tokens: Tensor, real: Tensor) -> Change:
        """Those of a prompt's visual tokens.

        Parameters
        ----------
        row : int
            The prompt.
        tokens : Tensor [N], int64
            Columns of the visual tokens, ascending.
        real : Tensor [L], bool
            Columns of the call that are no padding.
        """
        ratios, cosines = self.ratios[row], self.cosines[row]
        columns = torch.arange(len(real), device=real.device)
        if self.left is not None:
            columns = self.left[row]
        seen = (columns >= 0) & real[columns.clamp(min=0)]
        mine = torch.isin(columns, tokens).to(ratios.device)
        return Change(
            self.layer, self.part, ratios[mine], cosines[mine], cosines[seen.to(ratios.device)]
        )


class ChangeProbe:
    """Records what the parts of one layer do, off its running calls.

    Parameters
    ----------
    layer : int
    attention, feed_forward
        The layer's modules.
    note : callable
        Takes each `Recorded`.
    wanted : callable
        Nothing -> whether the present thread's call is one to record.
    """

    def __init__(
        self,
        layer: int,
        attention: Any,
        feed_forward: Any,
        note: Callable[[Recorded], None],
        wanted: Callable[[], bool],
    ) -> None:
        self._layer, self._note, self._wanted = layer, note, wanted
        self._hooks = [
            module.register_forward_hook(self._after(part), with_kwargs=True)
            for part, module in zip(PARTS, (attention, feed_forward), strict=True)
        ]

    def remove(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def _after(self, part: Part) -> Any:
        def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if not self._wanted():
                return
            given, made = stock.layer_input(args, kwargs), stock.part_output(output)
            if given.shape != made.shape:
                raise stock.unknown(
                    f"{type(module).__name__} makes {list(made.shape)} of {list(given.shape)}, "
                    "whose change cannot be read"
                )
            with torch.no_grad():
                self._note(Recorded(self._layer, part, *_change(given, made)))

        return after


def _change(given: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
    """|made| / |given| and their cosine, over the last dimension; in float32."""
    given, made = given.detach().float(), made.detach().float()
    length = torch.linalg.vector_norm(given, dim=-1)
    ratios = torch.linalg.vector_norm(made, dim=-1) / length.clamp(min=torch.finfo().tiny)
    return ratios, torch.nn.functional.cosine_similarity(given, made, dim=-1)
