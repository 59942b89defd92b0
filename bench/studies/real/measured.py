"""Everything that is measured on one kind of features, over its pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import spearmanr

from bench.studies.real.measure import (
    KEEPS,
    Maker,
    bounds,
    errors,
    every,
    hits,
    norms,
    picks,
    shared,
    small,
    under_outliers,
)
from bench.studies.real.rows import Rows
from sparevlm.progress import progress_bar


@dataclass(frozen=True)
class Measured:
    """What came out for one kind of features; arrays [pictures, budgets of `KEEPS`].

    Attributes
    ----------
    error, all, small : mapping
        Method -> relative squared error, share of regions hit, share of small regions hit.
    same : mapping
        Method -> share of its tokens that SPARE keeps too.
    least, most, most_small : float arrays
        The SVD's bound of the error, and what share of (small) regions so many tokens can hit.
    norms : list of mappings, one a picture
    """

    title: str
    error: dict[str, np.ndarray]
    all: dict[str, np.ndarray]
    small: dict[str, np.ndarray]
    same: dict[str, np.ndarray]
    least: np.ndarray
    most: np.ndarray
    most_small: np.ndarray
    norms: list[dict[str, float]]

    def mean(self, what: str, method: str, k: int) -> float:
        """Mean over pictures of one of the mappings."""
        return float(np.nanmean(getattr(self, what)[method][:, KEEPS.index(k)]))

    def norm(self, what: str) -> float:
        """Mean over pictures of one of `norms`; nan where no picture has it."""
        values = np.array([one[what] for one in self.norms])
        return float(values[~np.isnan(values)].mean()) if not np.isnan(values).all() else np.nan

    def better(self, methods: list[str], k: int) -> list[str]:
        """Those of some methods that leave less error than random tokens."""
        limit = self.mean("error", "random", k)
        return [name for name in methods if self.mean("error", name, k) < limit]

    def agreement(self, what: str, k: int, methods: list[str]) -> float:
        """Spearman's correlation over methods of error with what share of regions is hit."""
        left = [self.mean("error", name, k) for name in methods]
        return float(spearmanr(left, [self.mean(what, name, k) for name in methods]).statistic)


def measured(rows: Rows, makers: Mapping[str, Maker]) -> Measured:
    """Ask every method for every picture; the first one is what the others are compared with."""
    found: dict[str, dict[str, list[list[float]]]] = {
        what: {name: [] for name in makers} for what in ("error", "all", "small", "same")
    }
    least, most, most_small, lengths = [], [], [], []
    with progress_bar(len(rows.features), "picture", rows.title) as bar:
        for i, features in enumerate(rows.features):
            regions = None if rows.regions is None else rows.regions[i]
            counted = np.arange(0) if regions is None else every(regions)
            few = np.arange(0) if regions is None else small(regions)
            places = np.full(len(features), -1) if regions is None else regions
            reference = picks(next(iter(makers.values())), features)
            for name, maker in makers.items():
                kept = picks(maker, features)
                left = errors(features, kept)
                found["error"][name].append([left[k] for k in KEEPS])
                found["all"][name].append([hits(counted, places, kept[k]) for k in KEEPS])
                found["small"][name].append([hits(few, places, kept[k]) for k in KEEPS])
                found["same"][name].append([shared(kept[k], reference[k]) for k in KEEPS])
            least.append(bounds(features))
            most.append(_reach(len(counted)))
            most_small.append(_reach(len(few)))
            lengths.append(norms(features, regions))
            bar.update()
    arrays = {
        what: {name: np.array(values) for name, values in each.items()}
        for what, each in found.items()
    }
    return Measured(
        rows.title, arrays["error"], arrays["all"], arrays["small"], arrays["same"],
        np.array(least), np.array(most), np.array(most_small), lengths,
    )  # fmt: skip


def _reach(regions: int) -> list[float]:
    """Share of so many regions that k tokens hit at most, for each of `KEEPS`."""
    return [min(k, regions) / regions if regions else float("nan") for k in KEEPS]


def outliers(rows: Rows, makers: Mapping[str, Maker]) -> dict[str, np.ndarray]:
    """Method -> what `under_outliers` says of each picture: float array [pictures, 3]."""
    found = {}
    with progress_bar(len(makers), "method", f"{rows.title}, outliers") as bar:
        for name, maker in makers.items():
            found[name] = np.array(
                [under_outliers(maker, features, i) for i, features in enumerate(rows.features)]
            )
            bar.update()
    return found


def rounded(rows: Rows, makers: Mapping[str, Maker], dtype: torch.dtype) -> dict[str, list[float]]:
    """Method -> share of the tokens kept in fp32 that are kept in another dtype too, by `KEEPS`."""
    found = {}
    for name, maker in makers.items():
        shares = []
        for features in rows.features:
            exact, lower = picks(maker, features), picks(maker, features.to(dtype))
            shares.append([shared(exact[k], lower[k]) for k in KEEPS])
        found[name] = np.mean(shares, axis=0).tolist()
    return found
