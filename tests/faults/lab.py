"""The vendors' part of production against stand-ins that can be broken: no Kubernetes, no waiting.

The program is production's own `__main__.py`, cut after the line that makes the servers; its nodes
are idle (records at Hetzner, on which nothing runs). The engine, its display, the providers and
their vendors' clients are those of `python -m rehearsal`, in this process; so is what the operator
reads. Vendors' clients are patched in two things: the seconds that they, and the gates, wait
between two tries; and that their time is out at once where a stand-in has fallen silent.
"""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest import mock

import hcloud
import httpx
import yaml
from cloudflare import _base_client
from rich.console import Console

from rehearsal.clouds.cloudflare import Cloudflare
from rehearsal.clouds.hetzner import Hetzner
from rehearsal.clouds.http import App, Listener
from rehearsal.display import Terminal
from rehearsal.engine.deployment import Deployment, Project, Result
from rehearsal.engine.state import Backend
from rehearsal.providers import hcloud_api
from rehearsal.serve import PASSPHRASE
from tests.faults.mortal import stand_ins
from tests.rehearsal.operator import ROOT, STACK_FILE, Operator

KEPT: Final = ("state", "hetzner.json", "cloudflare.json")
ENV_FILE: Final = "deploy/rehearsal.env"
SETTINGS: Final = (STACK_FILE, ENV_FILE)
SERVERS: Final = "nodes = Nodes("
GATES_PAUSE: Final = "self._sleep(min(2.0**attempt, 20.0))"
CLIENT_SECONDS: Final = 59.0
"""How long a vendor's client waits for an answer here, by which its sockets are known (60 s in
earnest). Nobody waits that long: see `Silence`."""


def vendors_program(main: str) -> str:
    """`__main__.py` up to the servers, without the imports of what comes after them."""
    lines = main.splitlines()
    (last,) = (i for i, line in enumerate(lines) if line.startswith(SERVERS))
    return "\n".join(line for line in lines[: last + 1] if "honeydue.kubernetes" not in line) + "\n"


@dataclass(frozen=True)
class Told:
    """One run: what it came to, and what the operator read."""

    result: Result
    text: str

    @property
    def ok(self) -> bool:
        return self.result.ok

    @property
    def changes(self) -> dict[str, int]:
        return {op: n for op, n in self.result.changes.items() if op not in ("same", "read")}


class Silence:
    """Time-outs without time: a client gives up a connection when the stand-in at its other end has
    fallen silent, and no sooner. By seconds, a machine that stalls would also run out of those of
    requests that nobody has disturbed, or of one whose change is not made yet."""

    def __init__(self) -> None:
        self._mute: set[tuple[str, int]] = set()
        self._asking = threading.local()

    def hear(self, wsgi_app: Any) -> Any:
        """The application, whose requests are known by the client's address."""

        def heard(environ: dict[str, Any], start_response: Any) -> Any:
            self._asking.client = environ["werkzeug.socket"].getpeername()
            return wsgi_app(environ, start_response)

        return heard

    def fall(self, _seconds: float) -> None:
        """What a stand-in does for `sleep`, before it hangs up."""
        client = self._asking.client
        self._mute.add(client)
        for _ in range(600):  # until the client has given up: then it takes its address out again
            if client not in self._mute:
                return
            threading.Event().wait(0.1)

    def impatient(self, receive: Callable[..., Any]) -> Callable[..., Any]:
        """`socket.recv` or `recv_into`, for sockets that wait for CLIENT_SECONDS."""

        def received(one: socket.socket, *arguments: Any) -> Any:
            if one.gettimeout() == CLIENT_SECONDS:
                mine, there = one.getsockname(), select.poll()
                there.register(one, select.POLLIN)
                while not there.poll(10):  # milliseconds
                    if mine in self._mute:
                        self._mute.discard(mine)
                        raise TimeoutError("timed out")
            return receive(one, *arguments)

        return received


@dataclass
class Lab:
    folder: Path
    checkout: Path
    silence: Silence = field(default_factory=Silence)
    hetzner: Hetzner = field(init=False)
    cloudflare: Cloudflare = field(init=False)
    _listeners: list[Listener] = field(default_factory=list)
    _ports: tuple[int, int] = (0, 0)

    # --- the stand-ins ---

    def serve(self) -> None:
        """Starts both, on the same ports as before: with what is in the folder, and no fault."""
        self.end()
        self.hetzner, self.cloudflare = stand_ins(self.folder)
        for one in (self.hetzner.app, self.cloudflare.app):
            one._sleep = self.silence.fall
        apps = (self.hetzner.wsgi_app, self.cloudflare.wsgi_app)
        self._listeners = [
            Listener(self.silence.hear(app), port=port).start()
            for app, port in zip(apps, self._ports, strict=True)
        ]
        self._ports = self._listeners[0].port, self._listeners[1].port
        os.environ["HCLOUD_ENDPOINT"] = f"{self._listeners[0].url}/v1"
        os.environ["CLOUDFLARE_BASE_URL"] = f"{self._listeners[1].url}/client/v4"

    @contextmanager
    def in_a_process(self) -> Iterator[subprocess.Popen[str]]:
        """Serves from another process for a while; afterwards from this one again."""
        self.end()
        ports = [str(port) for port in self._ports]
        command = [sys.executable, "-m", "tests.faults.mortal", str(self.folder), *ports]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield process
            finally:
                process.kill()
        self.serve()

    def end(self) -> None:
        for listener in self._listeners:
            listener.stop()
        self._listeners = []

    def app(self, vendor: str) -> App:
        return self.hetzner.app if vendor == "hetzner" else self.cloudflare.app

    def operate(self, vendor: str, method: str, path: str, body: Any = None) -> Any:
        """The operator's side of a stand-in."""
        port = self._ports[0 if vendor == "hetzner" else 1]
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/_rehearsal{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def inject(self, vendor: str, **fault: Any) -> None:
        self.operate(vendor, "POST", "/faults", fault)

    def sold_out(self, none_left: bool) -> None:
        body = {"server_type": "cx33", "location": "nbg1", "sold_out": none_left}
        self.operate("hetzner", "PUT", "/sold-out", body)

    def healthy(self) -> list[dict[str, Any]]:
        """Takes every fault back; those that still waited for their request."""
        waiting = []
        for vendor in ("hetzner", "cloudflare"):
            waiting += self.operate(vendor, "GET", "/faults")["faults"]
            self.operate(vendor, "DELETE", "/faults")
        self.sold_out(False)
        return waiting

    # --- the engine ---

    @property
    def deployment(self) -> Deployment:
        return Deployment(Project.load(self.checkout), "rehearsal", Backend(self.folder / "state"))

    def run(self, verb: str, *, dry_run: bool = False) -> Told:
        console = Console(file=io.StringIO(), width=140, highlight=False)
        act = getattr(self.deployment, verb)
        options = {"dry_run": True} if dry_run and verb in ("refresh", "destroy") else {}
        with Terminal(console, verb, dry_run=dry_run or verb == "preview", diff=False) as show:
            result = act(show, **options)
        assert isinstance(console.file, io.StringIO)
        return Told(result, console.file.getvalue())

    def up(self) -> Told:
        return self.run("up")

    def edit(self, key: str, change: Mapping[str, Any] | str) -> None:
        """Merges `change` into one setting of the stack file."""
        path = self.checkout / STACK_FILE
        stack = yaml.safe_load(path.read_text())
        old = stack["config"].get(f"honeydue:{key}")
        new = change if isinstance(change, str) else {**(old or {}), **change}
        stack["config"][f"honeydue:{key}"] = new
        path.write_text(yaml.safe_dump(stack, sort_keys=False))

    # --- the world ---

    def world(self) -> dict[str, Any]:
        """What is at both vendors, by name: two deployments that are alike give equal worlds."""
        return canonical(self.hetzner.app.store.snapshot(), self.cloudflare.app.store.snapshot())

    def references(self) -> dict[str, set[str]]:
        """URN → the URNs that it refers to, of each resource in the state, in its order."""
        resources = self.deployment.export()["deployment"]["resources"]
        return {
            r["urn"]: {
                *r.get("dependencies", []),
                *(urn for urns in r.get("propertyDependencies", {}).values() for urn in urns),
                *([r["parent"]] if r.get("parent") else []),
                *([r["provider"].rpartition("::")[0]] if r.get("provider") else []),
            }
            for r in resources
        }

    # --- keeping ---

    def keep(self, where: Path) -> None:
        """Copies state, stores and settings aside."""
        shutil.rmtree(where, ignore_errors=True)
        where.mkdir(parents=True)
        for name in KEPT:
            source = self.folder / name
            if source.is_dir():
                shutil.copytree(source, where / name)
            elif source.exists():
                shutil.copy2(source, where / name)
        for name in SETTINGS:
            shutil.copy2(self.checkout / name, where / Path(name).name)

    def back_to(self, kept: Path) -> None:
        """Everything as it was when it was kept."""
        self.end()
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        for name in KEPT:
            if name != "state":
                (self.folder / name).unlink(missing_ok=True)
            if (kept / name).is_dir():
                shutil.copytree(kept / name, self.folder / name)
            elif (kept / name).exists():
                shutil.copy2(kept / name, self.folder / name)
        for name in SETTINGS:
            shutil.copy2(kept / Path(name).name, self.checkout / name)
        self.serve()


def canonical(hetzner: Mapping[str, Any], zones: Mapping[str, Any]) -> dict[str, Any]:
    """Names instead of ids and addresses, sorted: nothing that a second try may change."""
    name_of = {ip["ip"].partition("/")[0]: ip["name"] for ip in hetzner["primary_ips"].values()}

    def named(kind: str, id_: Any) -> Any:
        return hetzner[kind][str(id_)]["name"] if str(id_) in hetzner[kind] else id_

    def named_address(text: str) -> str:
        for address, name in name_of.items():
            if text == address or (":" in address and text.startswith(address)):
                return str(name)
        return text

    servers = sorted(
        [
            server["name"],
            server["labels"],
            server["protection"],
            named("primary_ips", server["ipv4"]),
            named("primary_ips", server["ipv6"]),
            named("placement_groups", server["placement_group"]),
            sorted([named("networks", net["network"]), net["ip"]] for net in server["private_net"]),
        ]
        for server in hetzner["servers"].values()
    )
    return {
        "servers": servers,
        "firewalls": sorted(
            [f["name"], json.dumps(f["rules"], sort_keys=True)]
            for f in hetzner["firewalls"].values()
        ),
        "networks": sorted(
            [n["name"], n["ip_range"], sorted(s["ip_range"] for s in n["subnets"])]
            for n in hetzner["networks"].values()
        ),
        **{
            kind: sorted([thing["name"], thing["labels"]] for thing in hetzner[kind].values())
            for kind in ("primary_ips", "ssh_keys", "placement_groups")
        },
        "records": sorted(
            [r["type"], r["name"], named_address(r["content"]), r["proxied"]]
            for r in zones["records"].values()
        ),
        "settings": {
            name: setting["value"]
            for zone in zones["settings"].values()
            for name, setting in sorted(zone.items())
        },
        "certificates": sorted(c["hostnames"] for c in zones["certificates"].values()),
    }


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """A checkout and stand-ins in `folder`, and the environment of an operator."""
    checkout = Operator.in_folder(folder).checkout
    main = checkout / "__main__.py"
    main.write_text(vendors_program(main.read_text()))
    gate = checkout / "honeydue/k3s/gate.py"
    patient = gate.read_text()
    assert GATES_PAUSE in patient
    gate.write_text(patient.replace(GATES_PAUSE, "self._sleep(0.05)"))
    mine = {
        "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
        "HONEYDUE_PYTHON": os.environ.get("HONEYDUE_PYTHON") or sys.executable,
    }
    one = Lab(folder, checkout)
    with mock.patch.dict(os.environ, mine), impatient_clients():
        one.serve()
        try:
            yield one
        finally:
            one.end()


@contextmanager
def impatient_clients() -> Iterator[None]:
    """Vendors' clients as they are, but for the seconds before they try again."""

    class Quick(hcloud.Client):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self._client._retry_interval_func = lambda _retries: 0.01

    with (
        mock.patch.object(hcloud_api, "Client", Quick),
        mock.patch.object(_base_client.BaseClient, "_calculate_retry_timeout", return_value=0.01),
    ):
        yield


@contextmanager
def short_of_time(silence: Silence) -> Iterator[None]:
    """Meanwhile the time of vendors' clients is out where a stand-in has fallen silent."""
    patient = vars(hcloud_api)["Client"]

    def hasty(*args: Any, **options: Any) -> hcloud.Client:
        made: hcloud.Client = patient(*args, **{**options, "timeout": CLIENT_SECONDS})
        return made

    with (
        mock.patch.object(hcloud_api, "Client", hasty),
        mock.patch.object(_base_client, "DEFAULT_TIMEOUT", httpx.Timeout(CLIENT_SECONDS)),
        mock.patch.object(socket.socket, "recv", silence.impatient(socket.socket.recv)),
        mock.patch.object(socket.socket, "recv_into", silence.impatient(socket.socket.recv_into)),
    ):
        yield
