"""Both ways to inner products, whatever the shape would choose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparevlm.selection import pivoting


# Scope "class" rather than "function" lets hypothesis run many examples under one of them.
@pytest.fixture(scope="class", params=["gram", "columns"])
def source(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pivoting, "prefer_gram", lambda *_: request.param == "gram")
        yield request.param
