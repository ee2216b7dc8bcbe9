"""A plugin of pytest for tools/mutants.py: coverage notes which test function reaches a line."""

from __future__ import annotations

import coverage  # pyright: ignore[reportMissingImports]
import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item):
    """Name the running test, without its parameters, in coverage's data."""
    now = coverage.Coverage.current()
    if now is not None:
        now.switch_context(item.nodeid.split("[")[0])
    yield
