"""The `Datacenter` in which servers really live: running nodes by server id."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from rehearsal.clouds.machines import Machine
from rehearsal.cluster import binaries
from rehearsal.cluster.binaries import Binaries, BinariesError, Progress
from rehearsal.cluster.node import Node, Status
from rehearsal.home import Home
from rehearsal.kubelet.addresses import Kubelets


class Cluster:
    """Implements `rehearsal.clouds.machines.Datacenter`. Every call returns at once; work goes on
    in threads. Which servers are on is the stand-in's knowledge: after a restart it starts them
    again, and a node finds its disk as it was."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.kubelets = Kubelets(home)
        self._lock = threading.RLock()
        self._nodes: dict[int, Node] = {}
        self._leaving: list[Node] = []
        self._destroyed: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._binaries: Binaries | None = binaries.cached()
        self._binaries_error: BinariesError | None = None
        self._building: threading.Thread | None = None
        self._closed = False

    # --- binaries ---

    def prepare(self) -> None:
        """Begins to make the binaries, if they are missing. After a failure: tries again."""
        with self._lock:
            if self._binaries or (self._building and self._building.is_alive()):
                return
            self._binaries_error = None
            self._building = threading.Thread(target=self._build, name="binaries", daemon=True)
            self._building.start()

    def _build(self) -> None:
        try:
            self._binaries = binaries.ensure(self._home)
        except BinariesError as error:
            self._binaries_error = error

    def binaries(self) -> Binaries | None:
        if self._binaries_error:
            raise self._binaries_error
        return self._binaries

    def binaries_line(self) -> str:
        return f"Kubernetes is not there yet: {Progress.read()}"

    # --- Datacenter ---

    def start(self, machine: Machine) -> None:
        with self._lock:
            if self._closed or machine.id in self._destroyed:
                return
            running = self._nodes.get(machine.id)
            if running is not None:
                self.update(machine)
                return
            self.prepare()
            node = Node(machine, self._folder(machine.id), self._home.logs, self)
            self._nodes[machine.id] = node.start()

    def update(self, machine: Machine) -> None:
        with self._lock:
            node = self._nodes.get(machine.id)
            if node is not None:
                node.update(machine)

    def stop(self, server_id: int) -> None:
        with self._lock:
            node = self._leave(server_id)
            if node:
                self._in_background(lambda: self._gone(node))

    def destroy(self, server_id: int) -> None:
        with self._lock:
            node = self._leave(server_id)
            self._destroyed.add(server_id)  # ids are never used again

            def after() -> None:
                self._gone(node)
                self._wipe(server_id)

            self._in_background(after)

    def rebuild(self, machine: Machine) -> None:
        with self._lock:
            node = self._leave(machine.id)

            def again() -> None:
                self._gone(node)
                self._wipe(machine.id)
                self.start(machine)

            self._in_background(again)

    def _leave(self, server_id: int) -> Node | None:
        """Takes a node out of the running ones and tells it to end."""
        node = self._nodes.pop(server_id, None)
        if node:
            self._leaving.append(node)
            node.ask_to_stop()
        return node

    def _gone(self, node: Node | None) -> None:
        if node:
            node.stop()
            with self._lock:
                self._leaving.remove(node)

    def _in_background(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="datacenter", daemon=True)
        self._threads = [one for one in self._threads if one.is_alive()] + [thread]
        thread.start()

    def nodes(self) -> list[Node]:
        """Those that are powered on."""
        with self._lock:
            return list(self._nodes.values())

    # --- surroundings of a node ---

    def neighbours(self, node: Node) -> list[Node]:
        with self._lock:
            network = node.machine.network_id
            return [
                other
                for other in self._nodes.values()
                if other is not node and network and other.machine.network_id == network
            ]

    def images_server(self) -> str:
        from rehearsal import images, serve  # noqa: PLC0415 - the serving process imports us

        if not images.is_on(self._home):
            return ""
        port = serve.place(self._home).registry
        return f"127.0.0.1:{port}" if port else ""

    def all_gone(self) -> bool:
        with self._lock:
            return not self._leaving

    # --- the serving process ---

    def close(self) -> None:
        """Ends every process and waits; the disks stay."""
        with self._lock:
            self._closed = True
            nodes = [*self._nodes.values(), *self._leaving]
            for node in nodes:
                node.ask_to_stop()
        for node in nodes:
            node.stop()
        for thread in self._threads:
            thread.join()

    def statuses(self) -> dict[str, dict[str, str | int]]:
        """By server name, for displays."""
        with self._lock:
            return {
                node.machine.name: {
                    "id": node.machine.id,
                    "phase": node.status().phase,
                    "line": node.status().line,
                    "address": node.address,
                }
                for node in sorted(self._nodes.values(), key=lambda one: one.machine.name)
            }

    def status(self, server_id: int) -> Status:
        with self._lock:
            node = self._nodes.get(server_id)
            return node.status() if node else Status("off", "powered off")

    def _wipe(self, server_id: int) -> None:
        shutil.rmtree(self._folder(server_id), ignore_errors=True)

    def _folder(self, server_id: int) -> Path:
        return self._home.nodes / str(server_id)
