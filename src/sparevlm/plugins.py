"""What other packages add by a line in their pyproject: entry points, each looked up once."""

from __future__ import annotations

import functools
from importlib.metadata import entry_points
from typing import Any

from sparevlm.warning import warn

METHODS = "sparevlm.methods"  # a class, or a module that defines some


@functools.cache
def offered(group: str) -> dict[str, Any]:
    """What packages offer to a group of entry points: name -> what the entry point points to.

    A package that cannot be imported is one warning that names it, and is left out.
    """
    things = {}
    for point in entry_points(group=group):
        try:
            things[point.name] = point.load()
        except Exception as error:  # whatever somebody else's package raises
            package = point.dist.name if point.dist else point.value
            warn(
                f"{package} offers {point.name} to {group} and cannot be imported "
                f"({type(error).__name__}: {' '.join(str(error).split())}): mend or remove it"
            )
    return things
