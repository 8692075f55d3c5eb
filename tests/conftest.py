"""What more than one folder of tests asks for."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

from tests.registry.forge import forge, forge_home

__all__ = ["forge", "forge_home"]


# A shell without job control starts what goes to the background with Ctrl-C ignored, and children
# inherit that: tests of Ctrl-C would wait for what never comes.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in each run, and no limit on the time of one (0.2 s, which any stall exceeds): a
# run is judged by what is in it. HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
if os.environ.get("HYPOTHESIS_PROFILE") is None:
    settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make test` shares the files out to two processes, as this has cores: the long
    ones first, or one process would work on them alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_is_short)


def _is_short(item: pytest.Item) -> bool:
    return not any(item.get_closest_marker(name) for name in ("cluster", "images"))
