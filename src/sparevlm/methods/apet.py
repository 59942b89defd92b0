"""ApET: what a few basis tokens approximate worst."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparevlm.methods.picking import PickingMethod, first_argmax, largest
from sparevlm.methods.settings import check_count
from sparevlm.selection import checked_rows, euclidean_distances_to, max_min, unit_rows
from sparevlm.tokens import Reduction, VisualTokens

_RIDGE = 1e-5


@dataclass(frozen=True)
class ApET(PickingMethod):
    """Approximation-error guided token compression (arXiv 2602.19870, CVPR 2026), its first stage.

    Farthest-point sampling of encoder states picks a basis S; every state is approximated by it,
    x_i ~ S^T (S S^T + 1e-5 I)^-1 S x_i. The basis and the tokens of the largest error are kept, k
    in all; every other is merged into the most similar (cosine) of the latter, which become the
    mean of what they stand for, before the projector. Farthest-point sampling begins with the token
    of the largest norm (ours); basis tokens stay in their own places (in the authors' program they
    take those of other tokens). The paper's second stage is inside the decoder.

    Parameters
    ----------
    basis : int
        How many basis tokens; at most k - 1 of them are kept.
    """

    name: ClassVar[str] = "apet"
    paper: ClassVar[str] = "arXiv 2602.19870"
    keeps: ClassVar[str] = "what a few basis tokens approximate worst; merges the rest"
    needs: ClassVar[frozenset[str]] = frozenset({"projector"})
    merges: ClassVar[bool] = True

    basis: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "basis")

    def pick(self, tokens: VisualTokens, k: int) -> Reduction:
        """See `PickingMethod.pick`."""
        rows = checked_rows(tokens.features)
        states = checked_rows(tokens.states())
        norms = torch.linalg.vector_norm(states, dim=1)
        basis = max_min(euclidean_distances_to(states), min(self.basis, len(states)), norms)
        errors = _errors(states, basis)
        basis = basis[: k - 1]
        worst = largest(errors.index_fill(0, basis, -torch.inf), k - len(basis))
        left = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        left[worst] = False
        left[basis] = False
        unit = unit_rows(states)
        alike = unit[left] @ unit[worst].T
        owner = first_argmax(alike)
        merged = states[worst].index_add(0, owner, states[left])
        merged /= 1 + owner.bincount(minlength=len(worst))[:, None]
        merged = tokens.project(merged).to(rows.dtype)
        features = torch.cat([merged, rows[basis]])
        return Reduction.picked(torch.cat([worst, basis]), features, scores=errors)


def _errors(states: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Distance [N] of each state to its ridge approximation by the basis rows."""
    seed = states[basis]
    gram = seed @ seed.T + _RIDGE * torch.eye(len(seed), dtype=seed.dtype, device=seed.device)
    approximated = torch.linalg.solve(gram, seed @ states.T).T @ seed
    return torch.linalg.vector_norm(states - approximated, dim=1)
