"""Tiny random models of every family with their real processors, built without any download."""

from tests.families import grids_and_tiles, newer, onedim

# Llama 4 can be built, and is refused.
BUILDERS = {
    name: make
    for name, make in (onedim.BUILDERS | grids_and_tiles.BUILDERS | newer.BUILDERS).items()
    if name != "llama4"
}

__all__ = ["BUILDERS"]
