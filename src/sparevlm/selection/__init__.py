"""Choosing tokens that span the others: tensor algorithms that know no model, image or text."""

from .greedy_css import greedy_css
from .pivoting import select
from .reconstruction import reconstruction_error, svd_bound
from .result import Selection

__all__ = ["Selection", "greedy_css", "reconstruction_error", "select", "svd_bound"]
