"""HTTP/1.1 as two proxies in a row need it: raw targets, headers in order, keep-alive, TLS.

Werkzeug's server, which the clouds' stand-ins use, hands over a decoded path and shakes hands in
the thread that accepts: one silent client would stop everybody.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Literal

import httpcore

log = logging.getLogger("rehearsal.traffic")

Headers = Sequence[tuple[str, str]]

IDLE_SECONDS: Final = 180.0
KEPT_SECONDS: Final = 60.0
"""Of a silent connection, by who answers and by who asks: the side that sends must be the one that
closes, or a request meets a connection that is just going."""
HANDSHAKE_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 19.0  # Cloudflare's, for error 522
ANSWER_SECONDS: Final = 100.0  # Cloudflare's, for error 524
HOP_BY_HOP: Final = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization"),
        *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    )
)
REPEATABLE: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
TLS_RECORD: Final = b"\x16"  # the first byte of a ClientHello


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    """Path and query as they were sent."""
    headers: Headers
    body: bytes
    client: str
    """The address that asks: of the user, or of the proxy before."""
    tls: bool

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    @property
    def host(self) -> str:
        return (self.header("host") or "").rpartition("@")[2].partition(":")[0].lower()

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Headers = ()
    body: bytes = b""
    reason: str = ""

    @staticmethod
    def text(status: int, body: str, *headers: tuple[str, str], reason: str = "") -> Answer:
        return Answer(
            status,
            (("Content-Type", "text/plain; charset=utf-8"), *headers),
            body.encode(),
            reason,
        )


Handler = Callable[[Request], Answer]
Tls = Callable[[], ssl.SSLContext]
"""Asked for each connection: certificates change while somebody listens."""


def without(headers: Headers, *names: str) -> list[tuple[str, str]]:
    """All but the hop-by-hop headers, those that `Connection` names, and `names` (lower case)."""
    listed = {
        name.strip().lower()
        for key, value in headers
        if key.lower() == "connection"
        for name in value.split(",")
    }
    gone = HOP_BY_HOP | listed | {*names}
    return [(key, value) for key, value in headers if key.lower() not in gone]


# --- listening -------------------------------------------------------------------------------


class Listener:
    """Answers on one loopback address, one thread for each connection. With `tls`, what begins like
    TLS is TLS, and anything else plain http on the same port. Raises OSError."""

    def __init__(self, handler: Handler, host: str, port: int, tls: Tls | None = None) -> None:
        self._handler = handler
        self._tls = tls
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopped = False
        self._socket = socket.create_server((host, port), backlog=256)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        threading.Thread(target=self._accept, name=f"traffic {host}", daemon=True).start()

    def stop(self) -> None:
        """Refuses from now on, and cuts off who is connected: as a machine without power."""
        with self._lock:
            self._stopped = True
            open_, self._open = self._open, set()
        for one in (self._socket, *open_):
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                connection, (client, _) = self._socket.accept()
            except OSError:  # stopped
                return
            threading.Thread(target=self._serve, args=(connection, client), daemon=True).start()

    def _serve(self, connection: socket.socket, client: str) -> None:
        try:
            connection.settimeout(HANDSHAKE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = self._tls is not None and connection.recv(1, socket.MSG_PEEK) == TLS_RECORD
            if secure and self._tls:
                connection = self._tls().wrap_socket(connection, server_side=True)
            with self._lock:
                if self._stopped:
                    return
                self._open.add(connection)
            _Conversation(connection, client, secure, self._handler)
        except OSError as error:  # also ssl.SSLError: a client that went away, or speaks no TLS
            log.debug("%s: %s", client, error)
        finally:
            with self._lock:
                self._open.discard(connection)
            _end(connection)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)  # wakes whoever waits on it in another thread
    one.close()


class _Conversation(BaseHTTPRequestHandler):
    """One connection, from its first request to its end."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    wbufsize = -1  # one write for head and body

    def __init__(self, connection: socket.socket, client: str, tls: bool, handler: Handler) -> None:
        self._client, self._tls, self._handler = client, tls, handler
        super().__init__(connection, (client, 0), None)  # type: ignore[arg-type]  # there is no server object

    def answer(self) -> None:
        length = self.headers.get("Content-Length") or "0"
        if self.headers.get("Transfer-Encoding") or not length.isdigit():
            self.close_connection = True
            self._send(Answer.text(HTTPStatus.LENGTH_REQUIRED, "streams are not played\n"))
            return
        body = self.rfile.read(int(length))
        headers = self.headers.items()
        self._send(
            self._handler(Request(self.command, self.path, headers, body, self._client, self._tls))
        )

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = answer  # noqa: N815 - the library's

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status, answer.reason or None)
        has_body = self.command != "HEAD" and answer.status not in (204, 304)
        for key, value in without(answer.headers, *(("content-length",) if has_body else ())):
            self.send_header(key, value)
        if has_body:
            self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if has_body:
            self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


# --- asking onwards --------------------------------------------------------------------------


Why = Literal["refused", "unreachable", "connect", "handshake", "certificate", "answer", "broken"]


class Failed(Exception):  # noqa: N818 - the other side's state
    """No answer. `why`: refused or unreachable, no connection (`connect`) or no answer (`answer`)
    in time, no TLS (`handshake`), a `certificate` that is not trusted, or a `broken` answer."""

    def __init__(self, why: Why, message: object) -> None:
        super().__init__(str(message))
        self.why = why


class Pool:
    """Kept connections to origins. `tls`: by https; `source`: where the questions come from."""

    def __init__(self, tls: ssl.SSLContext | None = None, source: str | None = None) -> None:
        self._scheme = b"https" if tls else b"http"
        self._pool = httpcore.ConnectionPool(
            ssl_context=tls,
            max_connections=None,
            max_keepalive_connections=100,
            keepalive_expiry=KEPT_SECONDS,
            local_address=source,
        )

    def send(self, to: tuple[str, int], request: Request, headers: Headers) -> Answer:
        """Raises Failed. A kept connection that turns out closed is followed by a new one where
        asking twice is harmless: so does Go's transport, and with it Traefik."""
        try:
            return self._send(to, request, headers)
        except (httpcore.ProtocolError, httpcore.ReadError, httpcore.WriteError) as error:
            if request.body or request.method not in REPEATABLE:
                raise Failed("broken", error) from None
        try:
            return self._send(to, request, headers)
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise Failed("broken", error) from None

    def _send(self, to: tuple[str, int], request: Request, headers: Headers) -> Answer:
        sent = [*without(headers, "content-length")]
        if request.body or request.method in ("POST", "PUT", "PATCH"):
            sent.append(("Content-Length", str(len(request.body))))
        try:
            response = self._pool.request(
                request.method,
                httpcore.URL(
                    scheme=self._scheme,
                    host=to[0].encode(),
                    port=to[1],
                    target=request.target.encode("latin-1"),
                ),
                headers=[(key.encode("latin-1"), value.encode("latin-1")) for key, value in sent],
                content=request.body or None,
                extensions={
                    "sni_hostname": request.host,
                    "timeout": {
                        "connect": CONNECT_SECONDS,
                        "read": ANSWER_SECONDS,
                        "write": ANSWER_SECONDS,
                    },
                },
            )
        except httpcore.ConnectTimeout as error:
            raise Failed("connect", error) from None
        except httpcore.TimeoutException as error:
            raise Failed("answer", error) from None
        except httpcore.ConnectError as error:
            raise Failed(_why(error), error) from None
        answered = [
            (key.decode("latin-1"), value.decode("latin-1")) for key, value in response.headers
        ]
        reason = response.extensions.get("reason_phrase", b"").decode("latin-1")
        return Answer(response.status, without(answered), response.content, reason)

    def close(self) -> None:
        self._pool.close()


def _why(error: httpcore.ConnectError) -> Why:
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case ConnectionRefusedError():
                return "refused"
            case ssl.SSLCertVerificationError():
                return "certificate"
            case ssl.SSLError() | ConnectionResetError():
                return "handshake"
        cause = cause.__cause__ or cause.__context__
    return "unreachable"
