"""One node's kubelet: it watches the pods that are bound to the node, and gives each a thread.

It speaks as the node itself (system:node:<name>), so that the Node authorizer and NodeRestriction
are in force for it: it sees what its own pods name, and nothing else. The Node object's conditions
and lease stay kwok's: they need no decision, and kwok is tried.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import logging
import shutil
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from rehearsal.cluster.certificates import Pair
from rehearsal.cluster.clients import Api, NoAnswer, Refused
from rehearsal.kubelet.addresses import Kubelets
from rehearsal.kubelet.images import Images
from rehearsal.kubelet.logs import Log, LogServer, NoLog
from rehearsal.kubelet.pod import END_SECONDS, Pod

Json = dict[str, Any]
logger = logging.getLogger(__name__)

AGAIN: Final = 0.5  # seconds until an API server that hung up is asked again
WATCH_SECONDS: Final = 240
SILENCE: Final = WATCH_SECONDS + 30.0  # a watch that says nothing for so long is dead


class Kubelet:
    """`folder`: the node's; `registry`: whose images are run ("" for none)."""

    def __init__(
        self,
        *,
        name: str,
        address: str,
        host_ip: str,
        api: Api,
        folder: Path,
        kubelets: Kubelets,
        registry: Callable[[], str],
    ) -> None:
        self.name = name
        self.host_ip = host_ip
        self.api = api
        self.kubelets = kubelets
        self.images = Images(folder / "images", kubelets.unpacked)
        self._address = address
        self._folder = folder
        self._registry = registry
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}  # by uid
        self._addresses: dict[str, str] = {}  # uid → address
        self._next_address = 0
        self._network: ipaddress.IPv4Network | None = None
        self._off = threading.Event()
        self._watching: socket.socket | None = None
        self._logs: LogServer | None = None
        self._thread = threading.Thread(target=self._live, name=f"kubelet {name}", daemon=True)

    def start(self, serving: Pair, client_ca: Path) -> Kubelet:
        self._logs = LogServer(self._address, serving, client_ca, self._find_log)
        self._thread.start()
        return self

    def ask_to_stop(self) -> None:
        """The node loses its power, and everything on it."""
        self._off.set()
        with contextlib.suppress(OSError):
            if self._watching:
                self._watching.shutdown(socket.SHUT_RDWR)
        for pod in self._all():
            pod.power_off()

    def stop(self) -> None:
        self.ask_to_stop()
        if self._thread.ident is not None:
            self._thread.join(END_SECONDS)
        for pod in self._all():
            pod.power_off()
            pod.join()
        if self._logs:
            self._logs.stop()

    # --- watching ---

    def _live(self) -> None:
        said = False
        while not self._off.is_set():
            try:
                if not said:
                    self._tell_port()
                    said = True
                # Whatever ended the last watch (a restart, 410 Gone, silence), a list mends it.
                self._watch(self._list())
            except (NoAnswer, Refused, OSError, http.client.HTTPException, ValueError):
                pass
            except Exception:
                if not self._off.is_set():  # a connection is closed under its reader
                    logger.exception("kubelet of %s", self.name)
            self._off.wait(AGAIN)

    def _tell_port(self) -> None:
        assert self._logs is not None  # `start` has made it
        endpoint = {"daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.port}}}
        self.api.patch(f"/api/v1/nodes/{self.name}/status", {"status": endpoint})

    @property
    def _selected(self) -> str:
        return "fieldSelector=" + urllib.parse.quote(f"spec.nodeName={self.name}")

    def _list(self) -> str:
        found = self.api.get(f"/api/v1/pods?{self._selected}") or {}
        there = {pod["metadata"]["uid"]: pod for pod in found["items"]}
        with self._lock:  # what ran keeps its address: nobody else may get it first
            for uid, pod in there.items():
                if ip := (pod.get("status") or {}).get("podIP"):
                    self._addresses.setdefault(uid, ip)
        for pod in there.values():
            self._see(pod)
        for pod in self._all():
            if pod.uid not in there:
                pod.remove()
        self._tidy(set(there))
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> None:
        query = f"watch=true&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
        for event in self._stream(f"/api/v1/pods?{self._selected}&{query}"):
            pod = event["object"]
            if event["type"] in ("ADDED", "MODIFIED"):
                self._see(pod)
            elif event["type"] == "DELETED":
                known = self._pods.get(pod["metadata"]["uid"])
                if known:
                    known.remove()
            else:  # ERROR: 410 Gone, most of all
                return

    def _stream(self, path: str) -> Iterator[Json]:
        api = self.api
        connection = http.client.HTTPSConnection(
            api.host, api.port, context=api.context, timeout=SILENCE
        )
        try:
            connection.request("GET", path)
            self._watching = connection.sock
            answer = connection.getresponse()
            if answer.status != 200:
                raise Refused(answer.status, answer.reason)
            while not self._off.is_set() and (line := answer.readline()):
                yield json.loads(line)
        finally:
            self._watching = None
            connection.close()

    def _see(self, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        with self._lock:
            known = self._pods.get(uid)
            if known is None:
                status = pod.get("status") or {}
                ended = status.get("phase") in ("Succeeded", "Failed")
                leaves = "deletionTimestamp" in pod["metadata"]
                if self._off.is_set() or (ended and not leaves):
                    self._addresses.pop(uid, None)
                    return
                found = bool(status.get("containerStatuses"))
                self._pods[uid] = Pod(pod, self, found=found).start()
                return
        known.update(pod)

    def _all(self) -> list[Pod]:
        with self._lock:
            return list(self._pods.values())

    # --- the pods' side of it ---

    def left(self, pod: Json) -> None:
        with self._lock:
            self._pods.pop(pod["metadata"]["uid"], None)
            self._addresses.pop(pod["metadata"]["uid"], None)

    def pod_ip(self, pod: Json) -> str:
        if pod["spec"].get("hostNetwork"):
            return self.host_ip
        if self._network is None:
            node = self.api.get(f"/api/v1/nodes/{self.name}") or {}
            if not (cidr := node.get("spec", {}).get("podCIDR")):
                raise NoAnswer(f"the node {self.name} has no podCIDR yet")
            self._network = ipaddress.IPv4Network(cidr)
        uid = pod["metadata"]["uid"]
        with self._lock:
            taken = set(self._addresses.values())
            while uid not in self._addresses:
                # One after the other, as CNI's host-local: an address comes again late. The first
                # is the bridge's.
                size = self._network.num_addresses - 3
                candidate = str(self._network[2 + self._next_address % size])
                self._next_address += 1
                if candidate not in taken:
                    self._addresses[uid] = candidate
            return self._addresses[uid]

    def real(self, image: str) -> bool:
        server = self._registry()
        return bool(server) and image.startswith(f"{server}/") and "@sha256:" in image

    def folder(self, pod: Json) -> Path:
        """As a kubelet's /var/log/pods."""
        about = pod["metadata"]
        return self._folder / "pods" / f"{about['namespace']}_{about['name']}_{about['uid']}"

    def pid_file(self, name: str) -> Path:
        return self._folder / "run" / f"{name}.pid"

    def _tidy(self, uids: set[str]) -> None:
        """Logs of pods that went while the node was off."""
        for folder in (self._folder / "pods").glob("*_*_*"):
            if folder.name.rpartition("_")[2] not in uids:
                shutil.rmtree(folder, ignore_errors=True)

    # --- logs ---

    def _find_log(self, namespace: str, name: str, container: str, previous: bool) -> Log:
        for pod in self._all():
            about = pod.pod["metadata"]
            if (about["namespace"], about["name"]) == (namespace, name):
                break
        else:
            raise NoLog(404, f'pod "{name}" not found')
        found = pod.container(container)
        if found is None:
            raise NoLog(404, f'container "{container}" not found in pod "{name}"')
        waiting = found.state.get("waiting")
        # While it waits for its next start, "this" instance is the one that ended.
        current = found.restart_count
        if previous and not waiting:
            current -= 1
        path = pod.log(container, current)
        if not path.is_file():
            which = f'container "{container}" in pod "{name}"'
            if previous:
                raise NoLog(400, f"previous terminated {which} not found")
            reason = (waiting or {}).get("reason", "ContainerCreating")
            why = {
                "ErrImagePull": "image can't be pulled",
                "ImagePullBackOff": "trying and failing to pull image",
            }.get(reason, reason)
            raise NoLog(400, f"{which} is waiting to start: {why}")
        attempt = found.restart_count

        def grows() -> bool:
            return found.restart_count == attempt and "running" in found.state

        return Log(path, grows)
