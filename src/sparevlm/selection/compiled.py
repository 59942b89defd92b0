"""Whether loops on a CPU can be compiled."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec

import torch


def compiled() -> bool:
    """Whether numba is there and works; warns, once, of one that does not.

    The first call ever compiles what later ones read from numba's cache. Not where torch.compile
    looks on: it can follow numpy, and not what numba makes.
    """
    return not torch.compiler.is_compiling() and _works()


@cache
def _works() -> bool:
    if find_spec("numba") is None:
        return False
    try:
        numba = import_module("numba")
        import_module("sparevlm.selection.loops")
    except Exception as error:  # of numba, LLVM, or the folder of the cache
        reason = " ".join(str(error).split()) or type(error).__name__
        warnings.warn(
            f"numba cannot be used ({reason}): selection on a CPU goes on without it, and takes "
            "longer. Install a numba that fits (pip install -U 'sparevlm[fast]'), or none.",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return not numba.config.DISABLE_JIT
