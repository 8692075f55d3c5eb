"""containerLogs: what `kubectl logs` asks the API server for, and it a node.

https://<node>:10250/containerLogs/<namespace>/<pod>/<container>?follow&tailLines&previous&…, for
the API server's own client certificate only. Source of paths and texts: k8s.io/kubernetes v1.34,
pkg/kubelet/server/server.go and pkg/kubelet/kubelet_pods.go.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from rehearsal.cluster.certificates import Pair

PORT: Final = 10250  # a kubelet's; every node has an address of its own
API_SERVER: Final = "system:apiserver"
POLL: Final = 0.2  # seconds between two looks at a log that is followed


class NoLog(Exception):  # noqa: N818 - an answer
    """What is said instead of a log. `status`: HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Log:
    """`grows`: whether its container still writes."""

    path: Path
    grows: Callable[[], bool]


Find = Callable[[str, str, str, bool], Log]
"""Namespace, pod, container, whether the instance before this one → its log. Raises NoLog."""


@dataclass(frozen=True)
class Wanted:
    """The query, as core/v1 PodLogOptions has it. Raises NoLog."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    limit: int | None = None
    since: str = ""

    @staticmethod
    def parse(query: str) -> Wanted:
        said = {key: values[-1] for key, values in parse_qs(query).items()}

        def number(key: str) -> int | None:
            if key not in said:
                return None
            if not said[key].isdigit():
                raise NoLog(400, f"{key} is no number: {said[key]!r}")
            return int(said[key])

        seconds, since = number("sinceSeconds"), said.get("sinceTime", "")
        if seconds is not None:
            began = datetime.now(UTC) - timedelta(seconds=seconds)
            since = began.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        flags = {key: said.get(key) == "true" for key in ("follow", "previous", "timestamps")}
        return Wanted(**flags, tail=number("tailLines"), limit=number("limitBytes"), since=since)


def read(log: Log, wanted: Wanted, gone: Callable[[], bool]) -> Iterator[bytes]:
    """The lines that are asked for, as they come; ends when the container has ended, or `gone`."""
    left = wanted.limit
    with log.path.open("rb") as file:
        lines: Iterator[bytes] = iter(file)
        if wanted.tail is not None:
            lines = iter(deque(file, wanted.tail))
        while True:
            growing = log.grows()  # asked before reading: what it wrote last is read then
            for line in lines:
                at, _, said = line.partition(b" ")
                if at.decode() < wanted.since:
                    continue
                said = said.partition(b" ")[2].partition(b" ")[2]  # behind stream and tag
                out = (at + b" " + said if wanted.timestamps else said)[:left]
                left = None if left is None else left - len(out)
                yield out
                if left == 0:
                    return
            if not wanted.follow or not growing or gone():
                return
            lines = iter(file)


class LogServer:
    """Serves until `stop`. `ca`: who signs the API server's client certificate."""

    def __init__(self, address: str, certificate: Pair, ca: Path, find: Find) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.crt, certificate.key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            self._server = _Server((address, PORT), context, find)
        except OSError:  # somebody listens on that port of every address
            self._server = _Server((address, 0), context, find)
        self.port = int(self._server.server_address[1])
        target = self._server.serve_forever
        self._thread = threading.Thread(target=target, args=(0.1,), name="kubelet", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, at: tuple[str, int], context: ssl.SSLContext, find: Find) -> None:
        super().__init__(at, _Handler)
        self.find = find
        self.ended = threading.Event()
        self._context = context

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(30.0)
        # Hands are shaken in the request's own thread: nobody can hold up the others.
        secured = self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return secured, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A stranger without a certificate, or somebody who has heard enough: nothing to say."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    connection: ssl.SSLSocket

    def do_GET(self) -> None:
        try:
            self._authorize()
            url = urlsplit(self.path)
            match url.path.split("/"):
                case ["", "containerLogs", namespace, pod, container]:
                    wanted = Wanted.parse(url.query)
                    log = self.server.find(namespace, pod, container, wanted.previous)
                case _:
                    raise NoLog(404, "the rehearsal's kubelet serves containerLogs only")
        except NoLog as answer:
            self._begin(answer.status)
            self.wfile.write(str(answer).encode())
            return
        self._begin(200)
        with contextlib.suppress(OSError):
            for line in read(log, wanted, self._gone):
                self.wfile.write(line)

    def _authorize(self) -> None:
        certificate: Any = self.connection.getpeercert() or {}
        subject = dict(pair[0] for pair in certificate.get("subject", ()))
        if subject.get("commonName") != API_SERVER:
            raise NoLog(403, f"Forbidden (user={subject.get('commonName')}, verb=get)")

    def _begin(self, status: int) -> None:
        """HTTP/1.0: the end of the connection is the end of the log."""
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()

    def _gone(self) -> bool:
        """Waits a moment; True when nobody listens any more."""
        readable, _, _ = select.select([self.connection], [], [], POLL)
        return bool(readable) or self.server.ended.is_set()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the API server's audit log has it."""
