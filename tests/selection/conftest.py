"""Every way to inner products, whatever the shape would choose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparevlm.selection import pivoting
from sparevlm.selection.products import BlockProducts, ColumnProducts, GramProducts

WAYS = {"gram": GramProducts, "columns": ColumnProducts, "blocks": BlockProducts}


# Scope "class" rather than "function" lets hypothesis run many examples under one of them.
@pytest.fixture(scope="class", params=WAYS)
def source(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        way = WAYS[request.param]
        patch.setattr(pivoting, "products_for", lambda rows, weights, _: way(rows, weights))
        yield request.param
