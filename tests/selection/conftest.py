"""Every way to inner products, whatever the shape would choose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparevlm.selection import pivoting

# On a CPU all run in one loop; the others are what an accelerator without Triton takes.
HOST = {"gram", "columns", "blocks"}
DEVICE = {"device, gram": True, "device, columns": False}


# Scope "class" rather than "function" lets hypothesis run many examples under one of them.
@pytest.fixture(scope="class", params=[*sorted(HOST), *DEVICE])
def source(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param in HOST:
            patch.setattr(pivoting, "_way", lambda images, k: request.param)
        else:
            patch.setattr(pivoting, "_on_host", lambda images: False)
            patch.setattr(pivoting, "_wants_gram", lambda images: DEVICE[request.param])
        yield request.param
