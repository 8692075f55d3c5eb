"""The `Datacenter` in which servers really live: nodes by server id, and the strays of a crash."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

from rehearsal.clouds.machines import Machine
from rehearsal.cluster import binaries
from rehearsal.cluster.binaries import Binaries, BinariesError, Progress
from rehearsal.cluster.node import Node, Status, load_machine, remove_folder, save_machine
from rehearsal.cluster.processes import end_strays
from rehearsal.home import Home


class Cluster:
    """Implements `rehearsal.clouds.machines.Datacenter`. Every call returns at once; work goes on
    in threads. `resume` brings back what was on when the serving process last ended."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = threading.RLock()
        self._nodes: dict[int, Node] = {}
        self._leaving: list[Node] = []
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
            if self._closed:
                return
            running = self._nodes.get(machine.id)
            if running is not None:
                self.update(machine)
                return
            save_machine(self._folder(machine.id), machine, on=True)
            self.prepare()
            node = Node(machine, self._folder(machine.id), self._home.logs, self)
            self._nodes[machine.id] = node.start()

    def update(self, machine: Machine) -> None:
        with self._lock:
            node = self._nodes.get(machine.id)
            save_machine(self._folder(machine.id), machine, on=node is not None)
            if node is not None:
                node.update(machine)

    def stop(self, server_id: int) -> None:
        with self._lock:
            node = self._leave(server_id)
            saved = load_machine(self._folder(server_id))
            if saved:
                save_machine(self._folder(server_id), saved[0], on=False)
            if node:
                self._in_background(lambda: self._gone(node))

    def destroy(self, server_id: int) -> None:
        with self._lock:
            node = self._leave(server_id)
            folder = self._folder(server_id)
            # Off for a restarted serving process from now on, however long its end takes.
            with contextlib.suppress(OSError):
                (folder / "machine.json").unlink(missing_ok=True)

            def after() -> None:
                self._gone(node)
                remove_folder(folder)

            self._in_background(after)

    def rebuild(self, machine: Machine) -> None:
        with self._lock:
            node = self._leave(machine.id)
            folder = self._folder(machine.id)

            def again() -> None:
                self._gone(node)
                remove_folder(folder)
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

    # --- surroundings of a node ---

    def neighbours(self, node: Node) -> list[Node]:
        with self._lock:
            network = node.machine.network_id
            return [
                other
                for other in self._nodes.values()
                if other is not node and network and other.machine.network_id == network
            ]

    def address_is_free(self, node: Node) -> bool:
        with self._lock:
            return not any(leaving.address == node.address for leaving in self._leaving)

    # --- the serving process ---

    def resume(self) -> None:
        """Ends what a killed serving process left running, then powers on what was on."""
        end_strays(self._home.nodes)
        for folder in sorted(self._home.nodes.glob("*")):
            saved = load_machine(folder)
            if saved and saved[1]:
                self.start(saved[0])

    def close(self) -> None:
        """Ends every process and waits; the disks stay, and so does who was on."""
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

    def _folder(self, server_id: int) -> Path:
        return self._home.nodes / str(server_id)
