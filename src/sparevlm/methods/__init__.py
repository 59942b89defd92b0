"""Pruning methods, one a file; a file dropped in here is found by itself."""

import importlib
import pkgutil

from sparevlm.methods.base import PruningMethod, get_method, list_methods, method_class
from sparevlm.methods.cdpruner import CDPruner
from sparevlm.methods.divprune import DivPrune
from sparevlm.methods.greedy_css import GreedyCSS
from sparevlm.methods.k_center import KCenter
from sparevlm.methods.largest_norm import LargestNorm
from sparevlm.methods.random_tokens import RandomTokens
from sparevlm.methods.spare import SPARE
from sparevlm.methods.uniform_grid import UniformGrid
from sparevlm.methods.vispruner import VisPruner

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "SPARE",
    "CDPruner",
    "DivPrune",
    "GreedyCSS",
    "KCenter",
    "LargestNorm",
    "PruningMethod",
    "RandomTokens",
    "UniformGrid",
    "get_method",
    "list_methods",
    "method_class",
]
