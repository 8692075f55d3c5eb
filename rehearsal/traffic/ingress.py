"""Traefik of one node: what its API server says becomes routes; the node's 80 and 443 answer.

Where it differs from the real one: a changed HelmChartConfig is no rollout of a DaemonSet, the new
values hold at once; and where 80 and 443 may not be bound (they need root, and nobody else on all
addresses) it listens on free ports of the same address, which `where` knows and nobody outside.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import itertools
import json
import logging
import ssl
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography import x509

from rehearsal.cluster.clients import Api, NoAnswer, Refused
from rehearsal.kubelet.behaviour import Behaviour
from rehearsal.traffic.authority import self_signed
from rehearsal.traffic.http import Answer, Failed, Listener, Pool, Request, without
from rehearsal.traffic.routes import Configuration, Object, Router, Server, configuration

log = logging.getLogger("rehearsal.traffic")

THROTTLE_SECONDS: Final = 2.0
"""Traefik's providersThrottleDuration: between taking one configuration and the next. So a pod that
goes may be asked for so long, which is what its preStop sleep is for."""
RETRY_SECONDS: Final = 0.3
WATCH_SECONDS: Final = 300
WATCHED: Final[Mapping[str, str]] = {
    "helmchartconfigs": "/apis/helm.cattle.io/v1/namespaces/kube-system/helmchartconfigs",
    "ingressclasses": "/apis/networking.k8s.io/v1/ingressclasses",
    "ingresses": "/apis/networking.k8s.io/v1/ingresses",
    "services": "/api/v1/services",
    "endpointslices": "/apis/discovery.k8s.io/v1/endpointslices",
    "secrets": "/api/v1/secrets?fieldSelector=type%3Dkubernetes.io%2Ftls",
}


class Pods(Protocol):
    """The kubelets' side: rehearsal.kubelet.addresses."""

    def address(self, pod_ip: str, port: int) -> tuple[str, int] | None:
        """Where the process really listens; None when none does."""

    def behaviour(self, pod_ip: str) -> Behaviour: ...


@dataclass(frozen=True)
class Around:
    """What a node's Traefik finds around it. `built`: whether an image is of the home's own
    registry (its pods are processes, all others pretended); of one that is not known ("") too.
    `on`: whether a node of that name has power. `edge`: the address that Cloudflare's stand-in asks
    from, believed where the program's values believe Cloudflare's."""

    pods: Pods
    built: Callable[[str], bool]
    on: Callable[[str], bool]
    edge: str


# --- what the API server says ----------------------------------------------------------------


class Mirror:
    """Objects of one kind, listed and then watched, as client-go's informers do. While the API
    server is away, what was there last stays."""

    def __init__(self, api: Api, path: str, changed: Callable[[], None]) -> None:
        self._api = api
        self._path = path
        self._changed = changed
        self._objects: dict[str, Object] = {}
        self._stopping = threading.Event()
        self._connection: http.client.HTTPSConnection | None = None
        self.listed = threading.Event()
        threading.Thread(target=self._live, name=f"mirror {path}", daemon=True).start()

    def objects(self) -> list[Object]:
        return list(self._objects.copy().values())

    def stop(self) -> None:
        self._stopping.set()
        if self._connection and self._connection.sock:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(2)

    def _live(self) -> None:
        while not self._stopping.wait(RETRY_SECONDS):
            try:
                found = self._api.get(self._path) or {"items": [], "metadata": {}}
                self._objects = {one["metadata"]["uid"]: one for one in found["items"]}
                self.listed.set()
                self._changed()
                if "resourceVersion" in found["metadata"]:  # else the kind is not there yet
                    self._watch(found["metadata"]["resourceVersion"])
            except (NoAnswer, Refused, OSError, http.client.HTTPException, ValueError) as error:
                log.debug("%s%s: %s", self._api.host, self._path, error)

    def _watch(self, version: str) -> None:
        """Until the API server ends it, as it does every now and then, or goes away."""
        connection = http.client.HTTPSConnection(
            self._api.host, self._api.port, context=self._api.context, timeout=WATCH_SECONDS + 30
        )
        self._connection = connection
        with contextlib.closing(connection):
            joint = "&" if "?" in self._path else "?"
            asked = f"watch=1&resourceVersion={version}&timeoutSeconds={WATCH_SECONDS}"
            connection.request("GET", f"{self._path}{joint}{asked}")
            answer = connection.getresponse()
            while not self._stopping.is_set() and (line := answer.readline()):
                event: dict[str, Any] = json.loads(line)
                if event["type"] == "ERROR":  # the version is too old: list again
                    return
                key = event["object"]["metadata"]["uid"]
                if event["type"] == "DELETED":
                    self._objects.pop(key, None)
                else:
                    self._objects[key] = event["object"]
                self._changed()


# --- one node --------------------------------------------------------------------------------


class Ingress:
    """Traefik of the node at `address`. `stop` is the power button."""

    def __init__(self, address: str, api: Api, around: Around) -> None:
        self.address = address
        self._api = api
        self._around = around
        self._configuration = Configuration({}, (), ())
        self._tls = server_context(())
        self._listeners: dict[str, tuple[int, Listener]] = {}  # entry point → its port, and who
        self._turns: dict[tuple[str, str], itertools.count[int]] = {}
        self._images: dict[str, str] = {}  # by the pod's uid
        self._pool = Pool()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._mirrors = {
            kind: Mirror(api, path, self._changed.set) for kind, path in WATCHED.items()
        }
        threading.Thread(target=self._live, name=f"ingress {address}", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        self._changed.set()
        for mirror in self._mirrors.values():
            mirror.stop()
        with self._lock:
            for _, listener in self._listeners.values():
                listener.stop()
            self._listeners.clear()
        self._pool.close()

    def where(self, port: int) -> int | None:
        """The port on which what belongs on `port` really listens."""
        with self._lock:
            return next(
                (here.port for wanted, here in self._listeners.values() if wanted == port), None
            )

    def _live(self) -> None:
        for mirror in self._mirrors.values():  # Traefik serves nothing before its caches are full
            while not mirror.listed.wait(RETRY_SECONDS) and not self._stopping.is_set():
                pass
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                self._take({kind: mirror.objects() for kind, mirror in self._mirrors.items()})
            except Exception:  # objects that make no sense: what was there last stays
                log.exception("%s: this configuration cannot be taken", self.address)
            self._stopping.wait(THROTTLE_SECONDS)
            self._changed.wait()

    def _take(self, objects: Mapping[str, list[Object]]) -> None:
        fresh = configuration(objects)
        if fresh.certificates != self._configuration.certificates:
            self._tls = server_context(fresh.certificates)
        self._configuration = fresh
        with self._lock:
            for name, (port, listener) in list(self._listeners.items()):
                if name not in fresh.ports or fresh.ports[name].number != port:
                    listener.stop()
                    del self._listeners[name]
            for name, wanted in fresh.ports.items():
                if name not in self._listeners and not self._stopping.is_set():
                    self._listeners[name] = wanted.number, self._listen(name, wanted.number)

    def _listen(self, entry_point: str, port: int) -> Listener:
        handler = partial(self.answer, entry_point)
        tls = (lambda: self._tls) if entry_point == "websecure" else None
        try:
            return Listener(handler, self.address, port, tls)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EADDRINUSE):
                raise
            return Listener(handler, self.address, 0, tls)

    # --- a request ---

    def answer(self, entry_point: str, request: Request) -> Answer:
        configured = self._configuration
        route = configured.route(entry_point, request.tls, request.host, request.path)
        if route is None:
            return Answer.text(404, "404 page not found\n")
        if not route.servers:
            return Answer.text(503, "no available server\n")
        server = self._next(route)
        believed = configured.ports[entry_point].trusts and request.client == self._around.edge
        headers = forwarded(request, believed=believed)
        answer = self._from(server, request, headers)
        return Answer(
            answer.status,
            [*answer.headers, ("X-Rehearsal-Pod", server.pod)],
            answer.body,
            answer.reason,
        )

    def _next(self, route: Router) -> Server:
        turn = self._turns.setdefault((route.host, route.path), itertools.count())
        return route.servers[next(turn) % len(route.servers)]

    def _from(self, server: Server, request: Request, headers: list[tuple[str, str]]) -> Answer:
        pods = self._around.pods
        at = pods.address(server.address, server.port)
        pretended = at is None and not self._around.built(self._image(server))
        try:
            if not self._around.on(server.node):  # for which the real one waits 30 s
                raise Failed("connect", f"{server.node} has no power")
            if pods.behaviour(server.address).kind == "answers-500":
                return self._in_its_place(server, 500)
            if pretended:
                return self._in_its_place(server, 200)
            if at is None:
                raise Failed("refused", "no process listens there")
            return self._pool.send(at, request, headers)
        except Failed as failure:
            late = failure.why in ("answer", "connect")
            status = HTTPStatus.GATEWAY_TIMEOUT if late else HTTPStatus.BAD_GATEWAY
            return Answer.text(status, status.phrase, ("X-Rehearsal", f"{server.pod}: {failure}"))

    def _in_its_place(self, server: Server, status: int) -> Answer:
        """For a pod that is only pretended, or was told to answer so."""
        digest = self._image(server).rpartition("@")[2]
        said = {"pretended": True, "pod": server.pod, "image": digest}
        headers = [("Content-Type", "application/json"), ("X-Rehearsal", "pretended")]
        return Answer(status, headers, json.dumps(said).encode() + b"\n")

    def _image(self, server: Server) -> str:
        """Its reference, which never changes; empty while the API server does not say."""
        if server.uid not in self._images:
            with contextlib.suppress(NoAnswer, Refused):
                path = f"/api/v1/namespaces/{server.namespace}/pods/{server.pod}"
                if pod := self._api.get(path):
                    self._images[server.uid] = pod["spec"]["containers"][0]["image"]
        return self._images.get(server.uid, "")


def forwarded(request: Request, *, believed: bool) -> list[tuple[str, str]]:
    """The headers for the pod. Who is not `believed` about the client is told to be it."""
    said = {
        "x-forwarded-for": request.client,
        "x-forwarded-host": request.header("host") or "",
        "x-forwarded-proto": "https" if request.tls else "http",
        "x-real-ip": request.client,
    }
    if believed:
        chain = request.header("x-forwarded-for")
        said |= {name: value for name in said if (value := request.header(name))}
        said["x-forwarded-for"] = f"{chain}, {request.client}" if chain else request.client
    return [*without(request.headers, *said), *((name.title(), said[name]) for name in said)]


# --- certificates ----------------------------------------------------------------------------


def server_context(certificates: Sequence[tuple[bytes, bytes]]) -> ssl.SSLContext:
    """Shows whoever asks for a name the first certificate for it, else one of Traefik's own."""
    context = _context(*_default())
    contexts = [(_names(chain), _context(chain, key)) for chain, key in certificates]

    def choose(connection: ssl.SSLObject, name: str | None, _outer: ssl.SSLContext) -> None:
        wanted = {name, "*." + (name or "").partition(".")[2]}
        for names, candidate in contexts:
            if names & wanted:
                connection.context = candidate
                return

    context.sni_callback = choose
    return context


@lru_cache(maxsize=1)
def _default() -> tuple[bytes, bytes]:
    return self_signed("TRAEFIK DEFAULT CERT", ca=False)


def _names(chain: bytes) -> set[str]:
    extension = x509.load_pem_x509_certificate(chain).extensions
    names = extension.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(names.get_values_for_type(x509.DNSName))


def _context(chain: bytes, key: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:  # the library takes files alone
        pair = Path(folder) / "pair.pem"
        pair.touch(mode=0o600)
        pair.write_bytes(key.strip() + b"\n" + chain)
        context.load_cert_chain(pair)
    return context
