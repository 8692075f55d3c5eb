"""One stack on a fake vendor, driven by tiny programs."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rehearsal.engine import journal, secrets
from rehearsal.engine.deployment import Deployment, Project, Result
from rehearsal.engine.events import Diagnostic, Event, ResourceFailed, ResourcePre
from rehearsal.engine.state import Backend
from tests.engine.fake import Vendor, write_project

STACK = "urn:pulumi:dev::shop::pulumi:pulumi:Stack::shop-dev"


def urn(name: str, type_: str = "fake:index:Thing") -> str:
    return f"urn:pulumi:dev::shop::{type_}::{name}"


@dataclass
class Lab:
    folder: Path
    vendor: Vendor = field(default_factory=Vendor)
    events: list[Event] = field(default_factory=list)
    config: str = "{}"
    project_config: str = ""
    listener: Callable[[Event], None] | None = None

    @property
    def backend(self) -> Backend:
        return Backend(self.folder / "state")

    def deployment(self, parallel: int = 16) -> Deployment:
        project = Project.load(self.folder / "project")
        load = self.vendor.load
        return Deployment(project, "dev", self.backend, load_provider=load, parallel=parallel)

    def program(self, source: str) -> None:
        write_project(
            self.folder / "project", textwrap.dedent(source), self.config, self.project_config
        )

    def run(
        self, verb: str, source: str | None = None, parallel: int = 16, **options: Any
    ) -> Result:
        if source is not None:
            self.program(source)
        self.events.clear()
        self.vendor.forget_calls()

        def take(event: Event) -> None:
            self.events.append(event)
            if self.listener is not None:
                self.listener(event)

        result: Result = getattr(self.deployment(parallel), verb)(take, **options)
        return result

    def up(self, source: str | None = None, **options: Any) -> Result:
        """An `up` that must succeed."""
        result = self.run("up", source, **options)
        assert result.ok, result.errors
        return result

    def preview(self, source: str | None = None, **options: Any) -> Result:
        return self.run("preview", source, **options)

    # --- what happened -------------------------------------------------------------------------

    @property
    def calls(self) -> list[str]:
        return [f"{operation} {name}" for operation, name in self.vendor.calls]

    def ops(self, name: str) -> list[str]:
        return [
            e.op.value for e in self.events if isinstance(e, ResourcePre) and _name(e.urn) == name
        ]

    def pre(self, name: str) -> ResourcePre:
        return next(e for e in self.events if isinstance(e, ResourcePre) and _name(e.urn) == name)

    @property
    def failures(self) -> dict[str, str]:
        return {_name(e.urn): e.message for e in self.events if isinstance(e, ResourceFailed)}

    def diagnostics(self, severity: str) -> list[str]:
        return [
            e.message for e in self.events if isinstance(e, Diagnostic) and e.severity == severity
        ]

    @property
    def state(self) -> list[dict[str, Any]]:
        resources: list[dict[str, Any]] = self.deployment().export()["deployment"]["resources"]
        return resources

    def in_state(self, name: str) -> dict[str, Any]:
        found = [r for r in self.state if _name(r["urn"]) == name]
        assert len(found) == 1, f"{name} stands {len(found)} times in the state"
        return found[0]

    @property
    def names(self) -> list[str]:
        return [_name(r["urn"]) for r in self.state]


def _name(urn_: str) -> str:
    return urn_.rsplit("::", 1)[-1]


@pytest.fixture(autouse=True)
def _passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rounds for the key: a million take a second, and one test proves them."""
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "correct horse")
    monkeypatch.setattr(secrets, "_ROUNDS", 1000)
    secrets._derive.cache_clear()


@pytest.fixture(autouse=True)
def _nothing_is_saved_whole_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a run that can afford no more whole writes than the first and the last: how many a run
    affords is a matter of time, and on a machine that stalls for a moment it is one more."""
    monkeypatch.setattr(journal, "SHARE_OF_WRITING", 0.0)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    before = {*threading.enumerate()}
    yield
    limit = time.monotonic() + 60  # grpc's end a moment after what they served
    while len(left := {*threading.enumerate()} - before) > 1 and time.monotonic() < limit:
        time.sleep(0.01)
    assert len(left) <= 1, left  # grpc keeps one poller for good
