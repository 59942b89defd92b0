"""Every way to inner products, whatever the shape would choose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparevlm.selection import pivoting
from sparevlm.selection.products import BlockProducts, ColumnProducts, GramProducts

WAYS = {"gram": GramProducts, "columns": ColumnProducts, "blocks": BlockProducts}
SMALL = {"small, gram": True, "small, columns": False}  # in one loop for a batch


# Scope "class" rather than "function" lets hypothesis run many examples under one of them.
@pytest.fixture(scope="class", params=[*WAYS, *SMALL])
def source(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        small = request.param in SMALL
        patch.setattr(pivoting, "_is_small", lambda images: small)
        if small:
            patch.setattr(pivoting, "_wants_gram", lambda *_: SMALL[request.param])
        else:
            way = WAYS[request.param]
            patch.setattr(pivoting, "products_for", lambda rows, weights, _: way(rows, weights))
        yield request.param
