"""Tiny random models of every family with their real processors, built without any download."""

from tests.families import grids_and_tiles, onedim

# These can be built, and are refused.
BUILDERS = {
    name: make
    for name, make in (onedim.BUILDERS | grids_and_tiles.BUILDERS).items()
    if name not in ("llama4", "ovis2")
}

__all__ = ["BUILDERS"]
