"""Tiny random models of every family with their real processors, built without any download."""

from tests.families import group1, group2, onedim

# These can be built, and are refused.
BUILDERS = {
    name: make
    for name, make in (onedim.BUILDERS | group1.BUILDERS | group2.BUILDERS).items()
    if name not in ("llama4", "ovis2")
}

__all__ = ["BUILDERS"]
