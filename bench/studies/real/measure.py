"""Numbers about features and what methods pick of them; one picture at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sparevlm import SPARE, get_method, list_methods
from sparevlm.methods import PruningMethod, method_class
from sparevlm.selection import reconstruction_curve, reconstruction_error, svd_bound
from sparevlm.tokens import VisualTokens

KEEPS = (4, 8, 16, 32, 64, 98)
SMALL = 4  # tokens of a region that counts as small
OUTLIERS, LONGER, FIRST = 3, 10.0, 8

Maker = Callable[[int], Sequence[PruningMethod]]
"""Budget -> methods that differ in their seed alone, over which numbers are averaged."""


def plain_spare(**settings: object) -> Maker:
    """SPARE of some settings, without a question."""
    return lambda keep: [SPARE(keep, guidance="none", **settings)]  # type: ignore[arg-type]


def from_features() -> dict[str, Maker]:
    """Name -> every method of the registry that keeps rows as they are and looks at them alone."""
    makers: dict[str, Maker] = {"spare": plain_spare()}
    for name in list_methods():
        cls = method_class(name)
        if not cls.needs and not cls.merges and cls.budget is PruningMethod.budget:
            makers[name] = _maker(name)
    return makers


def _maker(name: str) -> Maker:
    if hasattr(method_class(name), "seed"):
        return lambda keep: [get_method(name, keep, seed=seed) for seed in range(3)]
    return lambda keep: [get_method(name, keep)]


def square(features: Tensor) -> tuple[int, int]:
    """The square grid of so many tokens."""
    side = round(len(features) ** 0.5)
    return side, side


def picks(maker: Maker, features: Tensor, keeps: Sequence[int] = KEEPS) -> dict[int, list[Tensor]]:
    """Budget -> kept tokens [k], a draw each, in the order picked where there is one."""
    tokens, most = VisualTokens(features, square(features)), max(keeps)
    whole = maker(most)
    if all(type(method).nested for method in whole):
        orders = [method.reduce(tokens).order for method in whole]
        if all(order is not None for order in orders):
            return {k: [order[:k] for order in orders if order is not None] for k in keeps}
    found: dict[int, list[Tensor]] = {}
    for k in keeps:
        reductions = [method.reduce(tokens) for method in maker(k)]
        found[k] = [r.indices if r.order is None else r.order for r in reductions]
    return found


def errors(features: Tensor, picked: dict[int, list[Tensor]]) -> dict[int, float]:
    """Budget -> relative squared error of rebuilding all tokens, over draws."""
    longest = picked[max(picked)]
    nested = all(
        torch.equal(order, whole[: len(order)])
        for orders in picked.values()
        for order, whole in zip(orders, longest, strict=True)
    )
    if nested:
        curves = [reconstruction_curve(features, order) for order in longest]
        return {k: float(np.mean([float(curve[k]) for curve in curves])) for k in picked}
    return {
        k: float(np.mean([float(reconstruction_error(features, order)) for order in orders]))
        for k, orders in picked.items()
    }


def bounds(features: Tensor, keeps: Sequence[int] = KEEPS) -> list[float]:
    """The least error that any subspace of so many dimensions leaves."""
    least = svd_bound(features)
    return [float(least[k]) for k in keeps]


def norms(features: Tensor, regions: np.ndarray | None = None) -> dict[str, float]:
    """How the lengths and directions of rows [N, D] are spread; regions as in `hits`."""
    lengths = features.double().norm(dim=1)
    directions = features.double() / lengths.clamp(min=1e-30)[:, None]
    n = len(features)
    cosine = float((directions.sum(0).square().sum() - n) / (n * (n - 1)))
    return {
        "longest": float(lengths.max() / lengths.median()),
        "twice": float((lengths > 2 * lengths.median()).double().mean()),
        "spread": float(lengths.std() / lengths.mean()),
        "cosine": cosine,
        "rank": float((svd_bound(features) > 0.1).sum()),
        "small": float("nan") if regions is None else _small_to_rest(lengths, regions),
    }


def _small_to_rest(lengths: Tensor, regions: np.ndarray) -> float:
    """Mean length of tokens in small regions over that of the others; nan where one is empty."""
    inside = torch.from_numpy(np.isin(regions, small(regions)))
    return float(lengths[inside].mean() / lengths[~inside].mean())


def small(regions: np.ndarray) -> np.ndarray:
    """The regions of at most `SMALL` tokens."""
    known, sizes = np.unique(regions[regions >= 0], return_counts=True)
    return known[sizes <= SMALL]


def hits(counted: np.ndarray, regions: np.ndarray, orders: Sequence[Tensor]) -> float:
    """Share of some regions with a kept token in them, over draws; nan where there are none.

    Parameters
    ----------
    counted : int array [R]
        The regions asked for.
    regions : int array [N]
        Region of each token; -1 for none.
    orders : kept tokens [k] of each draw.
    """
    if not len(counted):
        return float("nan")
    return float(np.mean([np.isin(counted, regions[order.numpy()]).mean() for order in orders]))


def every(regions: np.ndarray) -> np.ndarray:
    """All regions that are counted."""
    return np.unique(regions[regions >= 0])


def shared(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Share of kept tokens that two selections have in common, over pairs of draws."""
    pairs = [(a, b) for a in one for b in other]
    return float(np.mean([torch.isin(a, b).double().mean() for a, b in pairs]))


def with_outliers(features: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows with a few drawn ones lengthened, and where those are."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.randperm(len(features), generator=generator)[:OUTLIERS]
    longer = features.clone()
    longer[at] *= LONGER
    return longer, at


def under_outliers(maker: Maker, features: Tensor, seed: int) -> tuple[float, float, float]:
    """Long tokens among the first picks; the others' error without and with their length."""
    longer, at = with_outliers(features, seed)
    others = torch.ones(len(features))
    others[at] = 0
    before = picks(maker, features, (FIRST,))[FIRST]
    after = picks(maker, longer, (FIRST,))[FIRST]

    def left(orders: Sequence[Tensor]) -> float:
        return float(np.mean([float(reconstruction_error(features, o, others)) for o in orders]))

    wasted = float(np.mean([float(torch.isin(order, at).sum()) for order in after]))
    return wasted, left(before), left(after)
