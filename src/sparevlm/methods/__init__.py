"""Pruning methods, one a file; a file dropped in here is found by itself."""

import importlib
import pkgutil

from sparevlm.methods.base import PruningMethod, get_method, list_methods, method_class
from sparevlm.methods.random_tokens import RandomTokens
from sparevlm.methods.spare import SPARE
from sparevlm.methods.uniform_grid import UniformGrid

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "SPARE",
    "PruningMethod",
    "RandomTokens",
    "UniformGrid",
    "get_method",
    "list_methods",
    "method_class",
]
