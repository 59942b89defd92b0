"""Choosing tokens that span the others: tensor algorithms that know no model, image or text."""

from .greedy_css import greedy_css
from .max_min import cosine_distances, euclidean_distances, max_min
from .pivoting import select
from .reconstruction import reconstruction_error, svd_bound
from .result import Selection
from .rows import checked_rows, unit_rows

__all__ = [
    "Selection",
    "checked_rows",
    "cosine_distances",
    "euclidean_distances",
    "greedy_css",
    "max_min",
    "reconstruction_error",
    "select",
    "svd_bound",
    "unit_rows",
]
