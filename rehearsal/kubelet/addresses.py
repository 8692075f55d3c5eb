"""What a pod's address leads to. No pod has a network of its own here: whoever plays Traefik or a
Service asks where the process really listens.

    cluster.kubelets.address("10.42.1.7", 8000)   ("127.0.0.1", 41234); None: nothing listens there
    cluster.kubelets.behaviour("10.42.1.7")       what the pod was told to do; answers-500 is the
                                                  asker's to play, the kubelet knows of probes only
"""

from __future__ import annotations

import threading
from pathlib import Path

from rehearsal.home import Home
from rehearsal.kubelet.behaviour import Behaviour, behaviour_file

Address = tuple[str, int]


class Kubelets:
    """What the nodes of one serving process share. Thread-safe.

    Addresses are of containers that run, Ready or not: who may get requests stands in the
    EndpointSlices, as in any cluster. A pretended container has none."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self._lock = threading.Lock()
        self._addresses: dict[tuple[str, int], Address] = {}
        self._behaviours: dict[str, Behaviour] = {}

    def address(self, pod_ip: str, port: int) -> Address | None:
        with self._lock:
            return self._addresses.get((pod_ip, port))

    def behaviour(self, pod_ip: str) -> Behaviour:
        """`ok` also for an address that no pod has."""
        with self._lock:
            return self._behaviours.get(pod_ip, Behaviour())

    # --- the pods' side ---

    @property
    def behaviour_file(self) -> Path:
        return behaviour_file(self.home)

    @property
    def unpacked(self) -> Path:
        """Images' root file systems, one folder per digest."""
        return self.home.root / "unpacked"

    def appear(self, pod_ip: str, behaviour: Behaviour) -> None:
        with self._lock:
            self._behaviours[pod_ip] = behaviour

    def listen(self, pod_ip: str, port: int, at: Address | None) -> None:
        """None: not any more."""
        with self._lock:
            if at is None:
                self._addresses.pop((pod_ip, port), None)
            else:
                self._addresses[pod_ip, port] = at

    def vanish(self, pod_ip: str) -> None:
        with self._lock:
            self._behaviours.pop(pod_ip, None)
            self._addresses = {k: v for k, v in self._addresses.items() if k[0] != pod_ip}
