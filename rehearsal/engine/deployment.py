"""SKELETON (signatures are final): one run of the engine over one stack."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rehearsal.engine.events import Listener
from rehearsal.engine.provider import Properties, Provider

# `rehearsal.providers.load`: (package such as "hcloud", the provider resource's inputs) -> Provider.
LoadProvider = Callable[[str, Properties], Provider]


class EngineError(Exception):
    """A refusal in words for the operator: what is wrong and the line that mends it. No traceback."""


@dataclass(frozen=True)
class Project:
    """`Pulumi.yaml`: the project's name, its folder, and its own `config:` values."""

    name: str
    root: Path
    config: dict[str, Any]  # fully qualified key -> value (as in Pulumi.yaml, `value:` unwrapped)

    @staticmethod
    def load(folder: Path) -> Project:
        """Reads `folder`/Pulumi.yaml; `EngineError` when it is missing or no Python project."""
        raise NotImplementedError


@dataclass(frozen=True)
class Result:
    """What a run came to. `changes`: logical steps by op; `outputs`: may hold `Secret`, `UNKNOWN`."""

    ok: bool
    changes: dict[str, int]
    outputs: Properties
    errors: tuple[str, ...]


class Deployment:
    """preview, up, refresh and destroy of one stack.

    `backend` is `state.Backend(folder that holds .pulumi)`. Every verb takes the lock unless it only
    previews, reports to `on_event`, and returns a `Result`; a resource's failure is in the result,
    `EngineError` is raised only when nothing could be started (lock, passphrase, corrupt state).
    `cancelled`: set it (Ctrl-C) and running steps finish, no other starts. `targets`: URNs; others
    are left as they are.
    """

    def __init__(
        self,
        project: Project,
        stack: str,
        backend: Any,
        *,
        load_provider: LoadProvider | None = None,  # None: rehearsal.providers.load
        parallel: int = 16,
    ) -> None:
        raise NotImplementedError

    def preview(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
    ) -> Result:
        raise NotImplementedError

    def up(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
    ) -> Result:
        raise NotImplementedError

    def refresh(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
        dry_run: bool = False,
    ) -> Result:
        raise NotImplementedError

    def destroy(
        self,
        on_event: Listener,
        *,
        targets: Sequence[str] = (),
        cancelled: threading.Event | None = None,
        dry_run: bool = False,
    ) -> Result:
        raise NotImplementedError

    # What `stack export|import|output|history` and `cancel` need.
    def export(self) -> dict[str, Any]:
        """{"version": 3, "deployment": …}: secrets stay encrypted."""
        raise NotImplementedError

    def import_(self, exported: dict[str, Any]) -> None:
        raise NotImplementedError

    def outputs(self) -> Properties:
        """The last run's stack outputs, decrypted, secrets as `values.Secret`."""
        raise NotImplementedError

    def history(self) -> list[dict[str, Any]]:
        """Newest first: the CLI's update records (kind, startTime, endTime, result, resourceChanges)."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Removes the locks of this stack."""
        raise NotImplementedError
