"""The picture at a lower resolution: the control that needs no pruning at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparevlm.methods.cells import cells, middles
from sparevlm.methods.picking import PickingMethod
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class DownsampledImage(PickingMethod):
    """Shrink the picture to as many patches as tokens are kept, and encode that instead.

    The picture is shrunk (bicubic, antialiased) to the r x c patches that have its shape best,
    r c >= k, and the encoder runs once more, with its position embeddings interpolated. Where r c
    is not k, k of the tokens spread evenly are taken. Each stands where its cell of the picture has
    its middle. The encoder's first run is not saved, so this is no way to save time.
    """

    name: ClassVar[str] = "downsample"
    paper: ClassVar[str] = "control"
    keeps: ClassVar[str] = "the tokens of the picture at a lower resolution"
    by_place: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"encoder"})
    merges: ClassVar[bool] = True

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        checked_rows(tokens.features)
        if tokens.encode is None or tokens.grid is None:
            raise ValueError(
                "DownsampledImage encodes the picture anew, and there is none: attach it to a "
                "model that has one grid of patches a picture, or give VisualTokens(grid, encode)"
            )
        height, width = tokens.grid
        rows = max(-(-k // width), min(height, k, round((k * height / width) ** 0.5)))
        columns = -(-k // rows)
        kept, _ = cells(rows, columns, k)
        places = middles(height, rows)[:, None] * width + middles(width, columns)
        indices = places.flatten()[kept].to(tokens.features.device)
        features = tokens.encode(rows, columns)
        return Reduction(indices=indices, features=features[kept.to(features.device)])
