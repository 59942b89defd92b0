"""Tests that share a server run in one worker."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By files for servers, by tests for all else.

    pytest 9.2 ignores the name that pytest-xdist 3.8 writes a group into, so that `--dist
    loadgroup` alone starts each server once a worker.
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return file if file.endswith("server.py") else nodeid

    return ByServer(config, log)
