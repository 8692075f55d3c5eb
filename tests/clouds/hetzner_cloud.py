"""A running Hetzner stand-in for tests, with a datacenter that notes what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from hcloud import Client

from rehearsal.clouds.hetzner import Hetzner
from rehearsal.clouds.http import Listener
from rehearsal.clouds.machines import Machine

TOKEN = "t" * 64
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB1FEbGUOyJ9ZqWrN8MJ4Vy3Q1XyQ7Vh3pCq8qfHq1mE me@home"
BASE = {"server_type": "cx33", "image": "ubuntu-24.04", "location": "nbg1"}


@dataclass
class Diary:
    """A datacenter that writes down what it was asked to do."""

    entries: list[tuple[str, Machine | int]] = field(default_factory=list)

    def start(self, machine: Machine) -> None:
        self.entries.append(("start", machine))

    def update(self, machine: Machine) -> None:
        self.entries.append(("update", machine))

    def stop(self, server_id: int) -> None:
        self.entries.append(("stop", server_id))

    def destroy(self, server_id: int) -> None:
        self.entries.append(("destroy", server_id))

    def rebuild(self, machine: Machine) -> None:
        self.entries.append(("rebuild", machine))

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.entries]

    @property
    def last_machine(self) -> Machine:
        machine = self.entries[-1][1]
        assert isinstance(machine, Machine)
        return machine


@dataclass
class Running:
    cloud: Hetzner
    diary: Diary
    url: str
    client: Client
    session: requests.Session

    @property
    def endpoint(self) -> str:
        return f"{self.url}/v1"

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """One raw request with the token, as hcloud-go sends it: (status, JSON)."""
        answer = self.session.request(method, self.endpoint + path, json=body, timeout=60)
        return answer.status_code, answer.json() if answer.content else {}

    def operate(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The operator's side; raises when it refuses."""
        answer = self.session.request(method, f"{self.url}/_rehearsal{path}", json=body, timeout=60)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def refusal(self, method: str, path: str, body: Any = None) -> tuple[int, str]:
        """(status, error code) of a request that must be refused."""
        status, answer = self.ask(method, path, body)
        return status, answer["error"]["code"]


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Running]:
    """The stand-in on any free port; actions are done at once unless told otherwise."""
    diary = Diary()
    options = {"action_seconds": 0.0, "token": TOKEN, "block": 90, **options}
    cloud = Hetzner(folder / "hetzner.json", datacenter=diary, **options)
    listener = Listener(cloud.wsgi_app).start()
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        client = Client(TOKEN, f"{listener.url}/v1", poll_interval=0.01)
        try:
            yield Running(cloud, diary, listener.url, client, session)
        finally:
            client._client._session.close()
            client._client_hetzner._session.close()
            listener.stop()
