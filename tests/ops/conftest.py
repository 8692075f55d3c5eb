"""What every test of a verb stands on."""

from __future__ import annotations

import httpx
import pytest


@pytest.fixture(autouse=True)
def _a_busy_machine_is_no_server_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs give a server a few seconds. The servers of these tests are threads of this very
    process: when it stands still for so long, all of them do. What is about a server that says
    nothing sets its own time."""
    monkeypatch.setattr("ops.api._TIMEOUT", httpx.Timeout(60.0))
    monkeypatch.setattr("ops.drift.SECONDS", 60.0)
    monkeypatch.setattr("ops.preflight.SECONDS", 60.0)
    monkeypatch.setattr("ops.releases_screen._TIMEOUT", 60.0)
    monkeypatch.setattr("ops.status._URL_SECONDS", 60.0)
