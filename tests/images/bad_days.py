"""A registry that has bad days: a proxy on loopback before a real one, which does what it is told.

    with BadDays(forge.server) as registry:
        registry.on("PUT", "*/manifests/*", answers(500), times=None)
        … push to registry.server …

It is a name of its own for the registry: where an answer names the real one (the place that gives
tokens, an upload's address), the proxy's name is put instead, so that nothing goes past it.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from tests.registry.forge import free_port

Act = Callable[["Conversation"], None]


def answers(status: int, words: str = "") -> Act:
    """Instead of the registry. Without words, as Gitea when its disk is full."""
    return lambda conversation: conversation.answer(status, words.encode())


def breaks_off(conversation: Conversation) -> None:
    """In the middle of what it is sent; nothing reaches the registry."""
    conversation.read(half=True)
    conversation.hang_up()


def loses_the_answer(conversation: Conversation) -> None:
    """The registry has done what it was asked for, and nobody is told."""
    conversation.ask()
    conversation.hang_up()


def goes_down(conversation: Conversation) -> None:
    """In the middle of what it is sent, and for good."""
    conversation.read(half=True)
    conversation.registry.down()


def goes_down_afterwards(conversation: Conversation) -> None:
    """Once the registry has done what it was asked for."""
    conversation.ask()
    conversation.registry.down()


def waits_for(others: threading.Barrier) -> Act:
    """Until as many ask for it as the barrier has parties; then as ever."""

    def act(conversation: Conversation) -> None:
        with suppress(threading.BrokenBarrierError):
            others.wait(300)
        conversation.pass_on()

    return act


@dataclass
class _Fault:
    method: str
    path: str
    act: Act
    times: int | None

    def matches(self, method: str, path: str) -> bool:
        return fnmatchcase(method, self.method) and fnmatchcase(path, self.path)


class BadDays:
    """`server` is the registry's other name; `seen` what was asked, as ("PUT", "/v2/…"); `acts`
    how often it did something else."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.seen: list[tuple[str, str]] = []
        self.credentials: set[str] = set()
        """What stood in the Authorization headers."""
        self.acts = 0
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server: _Server | None = None
        self._port = free_port()
        self.up()
        self.server = f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def on(self, method: str, path: str, act: Act, *, times: int | None = 1) -> None:
        """`path`: a shell pattern for it, query and all; `times` None: until `heal`."""
        with self._lock:
            self._faults.append(_Fault(method, path, act, times))

    def heal(self) -> None:
        """Up, without a fault, and with nothing seen."""
        with self._lock:
            self._faults.clear()
            self.seen.clear()
            self.credentials.clear()
            self.acts = 0
        self.up()

    def up(self) -> None:
        if self._server is None:
            self._server = _Server(self, self._port)
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Refuses connections from now on, and ends those that there are."""
        server, self._server = self._server, None
        if server is None:
            return
        server.socket.close()  # at once; `shutdown` waits for the loop
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.shutdown()

    def takes(self, method: str, path: str) -> Act | None:
        with self._lock:
            self.seen.append((method, path))
            for fault in self._faults:
                if fault.matches(method, path):
                    self.acts += 1
                    if fault.times is not None:
                        fault.times -= 1
                        if not fault.times:
                            self._faults.remove(fault)
                    return fault.act
        return None

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def left(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, registry: BadDays, port: int) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", port), Conversation)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client or a proxy that hung up is what these tests are about."""


_HOPS: Final = {"connection", "transfer-encoding", "content-length", "host", "date", "server"}


class Conversation(BaseHTTPRequestHandler):
    """One client's connection, and the request that it is at."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two of them wait 40 ms for each other
    server: _Server

    @property
    def registry(self) -> BadDays:
        return self.server.registry

    def setup(self) -> None:
        super().setup()
        self.registry.connected(self.connection)

    def finish(self) -> None:
        self.registry.left(self.connection)
        with suppress(OSError):
            super().finish()

    def handle_request(self) -> None:
        self._body: bytes | None = None
        if authorization := self.headers.get("Authorization"):
            self.registry.credentials.add(authorization.partition(" ")[2])
        act = self.registry.takes(self.command, self.path)
        if act is not None:
            act(self)
        else:
            self.pass_on()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_request  # noqa: N815

    def read(self, *, half: bool = False) -> bytes:
        if self._body is None:
            if self.headers.get("Transfer-Encoding", "") == "chunked":
                self._body = b"".join(iter(self._chunk, b""))
            else:
                length = int(self.headers.get("Content-Length") or 0)
                self._body = self.rfile.read(length // 2 if half else length)
        return self._body

    def _chunk(self) -> bytes:
        data = self.rfile.read(int(self.rfile.readline(), 16))
        self.rfile.readline()
        return data

    def ask(self) -> tuple[int, list[tuple[str, str]], bytes]:
        """What the registry answers, under the proxy's name."""
        kept = {name: value for name, value in self.headers.items() if name.lower() not in _HOPS}
        connection = http.client.HTTPConnection(self.registry.upstream, timeout=300)
        try:
            connection.request(self.command, self.path, self.read(), kept)
            answer = connection.getresponse()
            theirs, ours = self.registry.upstream, self.registry.server
            told = [(name, value.replace(theirs, ours)) for name, value in answer.getheaders()]
            return answer.status, told, answer.read()
        finally:
            connection.close()

    def pass_on(self) -> None:
        status, headers, body = self.ask()
        self.send_response_only(status)
        length = str(len(body))
        for name, value in headers:
            if name.lower() == "content-length":
                length = value  # of a HEAD it is that of what is not sent
            elif name.lower() not in _HOPS:
                self.send_header(name, value)
        if status not in (204, 304):
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, status: int, body: bytes) -> None:
        self.read()
        self.send_response_only(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        pass
