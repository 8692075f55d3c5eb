"""The whole way, for the serving process: the edge, and an ingress on each node that runs.

way = Way(home, port, store, cluster, block); way.stop()
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from rehearsal.clouds.http import Store
from rehearsal.clouds.machines import Machine
from rehearsal.cluster.clients import Api
from rehearsal.cluster.node import Status
from rehearsal.home import Home
from rehearsal.traffic.authority import edge_pair
from rehearsal.traffic.edge import Edge
from rehearsal.traffic.http import Listener
from rehearsal.traffic.ingress import Around, Ingress, Pods

LOOK_SECONDS: Final = 0.2  # between two looks at which nodes run


class Node(Protocol):
    machine: Machine

    @property
    def address(self) -> str: ...

    def api(self) -> Api | None: ...

    def status(self) -> Status: ...


class Nodes(Protocol):
    def nodes(self) -> Sequence[Node]:
        """Those that are powered on."""


class Way:
    """Begins at once; raises OSError when the edge's port is taken. `block`: the servers'
    127.<block>.0.0/16; `store`: of Cloudflare's stand-in."""

    def __init__(
        self,
        home: Home,
        *,
        port: int,
        block: int,
        store: Store,
        nodes: Nodes,
        pods: Pods,
        built: Callable[[str], bool],
    ) -> None:
        self._nodes = nodes
        # The last address of the servers' own: what Cloudflare's networks are to a real server.
        self._around = Around(pods, built, self._is_on, edge=f"127.{block}.255.254")
        self._ingresses: dict[Node, Ingress] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        zones = [zone["name"] for zone in store.snapshot()["zones"].values()]
        pair = edge_pair(home, zones)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.crt, pair.key)
        self._edge = Edge(store.snapshot, self.reach, self._around.edge)
        self._listener = Listener(self._edge, "127.0.0.1", port, lambda: context)
        self._thread = threading.Thread(target=self._live, name="way", daemon=True)
        self._thread.start()

    def reach(self, address: str, port: int) -> tuple[str, int]:
        with self._lock:
            for ingress in self._ingresses.values():
                if ingress.address == address:
                    return address, ingress.where(port) or port
        return address, port

    def stop(self) -> None:
        self._listener.stop()
        self._stopping.set()
        self._thread.join()
        self._edge.close()

    def _is_on(self, name: str) -> bool:
        return any(node.machine.name == name for node in self._nodes.nodes())

    def _live(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self._follow(self._nodes.nodes())
        self._follow(())

    def _follow(self, on: Sequence[Node]) -> None:
        """A node that is up has its Traefik from then on, also while its API server is away; one
        that is powered off has none."""
        with self._lock:
            gone = [node for node in self._ingresses if node not in on]
            for node in gone:
                self._ingresses.pop(node).stop()
            for node in on:
                api = node.api()
                if node not in self._ingresses and node.status().phase == "running" and api:
                    self._ingresses[node] = Ingress(node.address, api, self._around)
