"""A greedy rule that is tried against all others: column subsets through a few random columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from sparevlm.methods.picking import PickingMethod
from sparevlm.selection import checked_rows
from sparevlm.tokens import Reduction, VisualTokens


@dataclass(frozen=True)
class SketchedCSS(PickingMethod):
    """Greedy column subset selection of shortened rows, its gain estimated from a few mixtures.

    Rows x_i / |x_i|^exponent; a step keeps argmax_j |S R r_j|^2 / |r_j|^2, with R the residuals and
    S [columns, N] random signs, and projects it out. With S the identity this is greedy CSS
    (Farahat et al. 2011, who also mix rows at random to save time). Beside the products of all
    pairs, a step costs O(N columns) where that costs O(N^2).

    Parameters
    ----------
    exponent : float
        0 takes rows as they are, 1 at length 1.
    columns : int
        Of the mixture; 0 takes no mixture but all rows, whose gain is exact.
    """

    name: ClassVar[str] = "sketched-css"
    paper: ClassVar[str] = "after Farahat et al., ICDM 2011"
    nested: ClassVar[bool] = True

    exponent: float = 0.5
    columns: int = 64

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        rows = checked_rows(tokens.features).float()
        order = picked(_pairs(rows, self.exponent), k, self.columns)
        return Reduction.picked(torch.from_numpy(order))


def _pairs(rows: torch.Tensor, exponent: float) -> np.ndarray:
    """Products [N, N] of rows [N, D] that are shortened."""
    pairs = rows @ rows.T
    lengths = pairs.diagonal().clamp(min=0).sqrt()
    scale = torch.where(lengths > 0, lengths, 1).pow(-exponent)
    return (pairs.mul_(scale).mul_(scale[:, None])).numpy()


def picked(pairs: np.ndarray, k: int, columns: int) -> np.ndarray:
    """The first k of N rows in the order kept: [k], int64.

    Parameters
    ----------
    pairs : float array [N, N]
        Products of all rows.
    k : int
    columns : int
        As in `SketchedCSS`.
    """
    n = len(pairs)
    left = pairs.diagonal().copy()  # |r_j|^2
    products = pairs.copy()  # S R R^T, of residuals
    if 0 < columns < n:
        signs = np.random.default_rng(0).integers(0, 2, (columns, n), dtype=np.int8)
        products = (2 * signs.astype(pairs.dtype) - 1) @ pairs
    basis = np.empty((k, n), pairs.dtype)
    order = np.empty(k, np.int64)
    least = 1e-6 * left.max()
    longest = np.argsort(-left, kind="stable")
    for step in range(k):
        gains = np.einsum("cn,cn->n", products, products)
        score = np.where(left > least, gains / np.maximum(left, least), -1)
        score[order[:step]] = -2
        at = order[step] = int(score.argmax())
        if score[at] < 0:  # nothing is left: the longest of the rest
            order[step:] = longest[~np.isin(longest, order[:step])][: k - step]
            break
        column = (pairs[at] - basis[:step, at] @ basis[:step]) / np.sqrt(left[at])
        products -= np.outer(products[:, at] / np.sqrt(left[at]), column)
        left -= column**2
        basis[step] = column
    return order
