"""TRIM: keep what the question is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.outliers import upper_outliers
from sparevlm.methods.picking import PickingMethod, largest
from sparevlm.methods.settings import check_flag
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class TRIM(PickingMethod):
    """Token reduction using CLIP metric (arXiv 2409.10994, COLING 2025), without fine-tuning.

    s = softmax(-v_i . t) over the tokens, v_i the patch and t the question in CLIP's space (the
    mean over text segments). The k - 1 tokens of the largest s are kept, and one more is the mean
    of all others, taken before the projector; it stands in the place of the last of them.

    Parameters
    ----------
    adaptive : bool
        Keep as many as there are outliers, s_i > Q3 + 1.5 (Q3 - Q1), as the paper does; `keep` is
        then the most that may be kept.
    """

    name: ClassVar[str] = "trim"
    paper: ClassVar[str] = "arXiv 2409.10994"
    keeps: ClassVar[str] = "what the question is about, and the mean of the rest"
    by_place: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"query", "projector"})
    merges: ClassVar[bool] = True

    adaptive: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag(self, "adaptive")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`.

        Raises
        ------
        ValueError
            If there is no question to compare with.
        """
        rows = checked_rows(tokens.features)
        if tokens.query is None:
            raise ValueError(
                "TRIM ranks tokens by the question, and there is none to compare with: ask one, "
                'and pass clip=, or relevance="llm"'
            )
        query = tokens.query
        text = query.texts.float().mean(0)
        scores = (-(query.patches.float() @ text)).softmax(0).to(rows.device)
        wanted = int(upper_outliers(scores).sum()) if self.adaptive else k - 1
        kept = largest(scores, min(wanted, k - 1))
        dropped = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        dropped[kept] = False
        mean = checked_rows(tokens.states())[dropped].mean(0, keepdim=True)
        features = torch.cat([rows[kept], tokens.project(mean).to(rows.dtype)])
        last = dropped.nonzero()[-1:, 0]
        return Reduction.picked(torch.cat([kept, last]), features, scores=scores)
