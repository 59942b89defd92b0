"""Choosing tokens that span the others: tensor algorithms that know no model, image or text."""

from .coverage import Similarity, cosines, max_coverage, max_coverage_each
from .distances import (
    Distances,
    cosine_distances,
    cosine_distances_to,
    euclidean_distances,
    euclidean_distances_to,
    nearest_others,
)
from .greedy import Gain, greedy_order, run_greedy
from .greedy_css import greedy_css, greedy_css_each
from .leverage import draw, leverage_scores, two_stage
from .max_min import max_min, max_min_each
from .pivoting import select, select_each
from .products import cosine_pairs, no_autocast
from .reconstruction import reconstruction_curve, reconstruction_error, svd_bound
from .result import Selection
from .rows import blocks, checked_rows, in_rooms, unit_rows
from .spread import spread_each
from .strong_rrqr import strong_rrqr
from .suppression import suppress
from .volume import volume_sample

__all__ = [
    "Distances",
    "Gain",
    "Selection",
    "Similarity",
    "blocks",
    "checked_rows",
    "cosine_distances",
    "cosine_distances_to",
    "cosine_pairs",
    "cosines",
    "draw",
    "euclidean_distances",
    "euclidean_distances_to",
    "greedy_css",
    "greedy_css_each",
    "greedy_order",
    "in_rooms",
    "leverage_scores",
    "max_coverage",
    "max_coverage_each",
    "max_min",
    "max_min_each",
    "nearest_others",
    "no_autocast",
    "reconstruction_curve",
    "reconstruction_error",
    "run_greedy",
    "select",
    "select_each",
    "spread_each",
    "strong_rrqr",
    "suppress",
    "svd_bound",
    "two_stage",
    "unit_rows",
    "volume_sample",
]
