"""HTTP plumbing of the clouds' stand-ins: routes, strict inputs, one persistent store, faults.

A stand-in is a `Dialect` (how this vendor authenticates, counts and refuses) and handlers:

    store = Store(path, initial=lambda: {"records": {}})
    app = App("cloudflare", store=store, dialect=MyDialect(), root="/client/v4")

    @app.route("POST", "/zones/<zone_id>/dns_records", body={
        "name": Field(str, required=True),
        "ttl": Field(int),
        "tags": Field(list, of=Field(str)),
        "data": Field(dict, fields={"port": Field(int)}),
        "comment": Field(str, nullable=True),
    })
    def create_record(call: Call) -> Reply:
        call.state["records"][...] = ...      # the store's own dict: kept when the handler returns,
        if clash:                             # rolled back when it raises
            raise Refusal(400, "81058", "An identical record already exists.")
        call.after(lambda: ...)               # runs once the change is on disk
        return Reply({"result": ...}, status=200)

    @app.route("PUT", "/blobs/<digest>", raw=True)   # any bytes: call.raw
    def store_blob(call: Call) -> Reply: ...         # a body that is bytes is sent as it is

    @app.route("GET", "/zones/<zone_id>/dns_records", query={"name", "page"})
    def list_records(call: Call) -> Reply: ...

    listener = Listener(app.wsgi_app); listener.start(); listener.url   # http://127.0.0.1:PORT
    listener.stop()

A route, query parameter or body field that nobody declared is refused with the dialect's own error
and logged loudly: a stand-in that ignores what it does not know would prove nothing.

Every stand-in also answers, beside the vendor's root and without a token, the operator's side:

    GET    /_rehearsal/state            the whole store
    GET    /_rehearsal/requests         method, path and status of what was asked, oldest first
    GET    /_rehearsal/unknown          what was asked that the stand-in does not know
    GET    /_rehearsal/faults           POST one (rehearsal.clouds.faults.Fault), DELETE all
    PUT    /_rehearsal/latency          {"seconds": 0.2}: every answer takes that much longer

More of these are declared with `@app.operator("DELETE", "/servers/<name>")`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import ClientDisconnected, HTTPException, MethodNotAllowed
from werkzeug.routing import Map, Rule
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from rehearsal.clouds.faults import Fault, Faults

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger("rehearsal.clouds")

State = dict[str, Any]
REMEMBERED_REQUESTS: Final = 10_000


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """A vendor's answer that is not success; the dialect turns it into the vendor's envelope."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.headers = dict(headers or {})


@dataclass(frozen=True)
class Problem:
    """One wrong input: the path of a body field (`rules[2].port`) or a query parameter, and why."""

    path: str
    reason: str
    unknown: bool = False


@dataclass(frozen=True)
class Field:
    """The shape of one JSON value. `of`: of each item of a list or value of a map;
    `fields`: of an object; `kind=object` accepts anything."""

    kind: type | tuple[type, ...]
    required: bool = False
    nullable: bool = False
    of: Field | None = None
    fields: Mapping[str, Field] | None = None


def check_fields(
    fields: Mapping[str, Field], body: Mapping[str, Any], at: str = ""
) -> list[Problem]:
    """Every way in which `body` does not have the declared shape."""
    problems = [
        Problem(at + name, "unknown field", unknown=True) for name in body if name not in fields
    ]
    for name, declared in fields.items():
        if name in body:
            problems += _check_value(declared, body[name], at + name)
        elif declared.required:
            problems.append(Problem(at + name, "Missing data for required field."))
    return problems


def _check_value(declared: Field, value: Any, at: str) -> list[Problem]:
    if value is None and (declared.nullable or declared.kind is object):
        return []
    kinds = declared.kind if isinstance(declared.kind, tuple) else (declared.kind,)
    # bool is an int to Python but not to JSON.
    fits = isinstance(value, kinds) and not (
        isinstance(value, bool) and not {bool, object} & {*kinds}
    )
    if not fits:
        names = " or ".join(_JSON_NAMES.get(kind, kind.__name__) for kind in kinds)
        return [Problem(at, f"Not a valid {names}.")]
    if isinstance(value, dict) and declared.fields is not None:
        return check_fields(declared.fields, value, f"{at}.")
    if isinstance(value, dict) and declared.of is not None:
        return [p for k, v in value.items() for p in _check_value(declared.of, v, f"{at}.{k}")]
    if isinstance(value, list) and declared.of is not None:
        return [p for i, v in enumerate(value) for p in _check_value(declared.of, v, f"{at}[{i}]")]
    return []


_JSON_NAMES: Final[dict[type, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "list",
    dict: "object",
}


class Store:
    """A JSON document on disk, one writer at a time, replaced as a whole.

    kill -9 leaves the old one or the new one; power loss may lose the last change (no fsync).
    """

    def __init__(self, path: Path, initial: Callable[[], State]) -> None:
        self.path = path
        self._lock = threading.RLock()
        if path.exists():
            self._saved = path.read_text(encoding="utf-8")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._saved = json.dumps(initial())
        self._state: State = json.loads(self._saved)

    @contextmanager
    def transaction(self) -> Iterator[State]:
        """The document, to read or change. Kept when the block ends, rolled back when it raises."""
        with self._lock:
            try:
                yield self._state
                text = json.dumps(self._state)
            except BaseException:
                self._state = json.loads(self._saved)
                raise
            if text != self._saved:
                beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
                # The store holds user_data and with it the cluster's keys.
                with open(
                    os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
                ) as new:
                    new.write(text)
                beside.replace(self.path)
                self._saved = text

    def saved(self) -> State:
        """A copy of what is on disk: within a transaction, what was there before it."""
        with self._lock:
            before: State = json.loads(self._saved)
            return before

    def snapshot(self) -> State:
        """A copy to look at."""
        with self._lock:
            copy: State = json.loads(json.dumps(self._state))
            return copy


@dataclass
class Call:
    """One request as a handler sees it."""

    method: str
    path: str
    """Below the API's root: `/servers/3`."""
    values: Mapping[str, Any]
    """What the route's `<…>` parts matched."""
    query: MultiDict[str, str]
    body: dict[str, Any]
    headers: Mapping[str, str]
    now: float
    """Seconds since the epoch, by the stand-in's clock."""
    state: State = field(default_factory=dict)
    raw: bytes = b""
    """The body as it came, where the route takes any bytes."""
    effects: list[Callable[[], None]] = field(default_factory=list)

    def after(self, effect: Callable[[], None]) -> None:
        """Runs `effect` when the change is stored, before the answer is sent."""
        self.effects.append(effect)


@dataclass(frozen=True)
class Reply:
    """A success: `body` None sends no content (204); bytes are sent as they are, with the
    Content-Type among `headers`."""

    body: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Dialect(Protocol):
    """What differs from vendor to vendor before and around a handler."""

    def admit(self, call: Call) -> None:
        """Authentication and quota: raises Refusal. Called for known and unknown routes."""

    def headers(self, call: Call) -> Mapping[str, str]:
        """Headers of every answer (rate limit)."""

    def wrong(self, problems: list[Problem]) -> Refusal:
        """The vendor's refusal of wrong or unknown body fields and query parameters."""

    def no_route(self, method: str, path: str, allowed: Collection[str]) -> Refusal:
        """Unknown path, or (`allowed` not empty) a known path with the wrong method."""

    def rate_limited(self) -> Refusal:
        """The answer to a request beyond the quota."""

    def envelope(self, refusal: Refusal) -> Any:
        """The JSON body of a refusal; bytes are sent as they are."""


Handler = Callable[[Call], Reply]


@dataclass(frozen=True)
class _Route:
    handler: Handler
    query: frozenset[str]
    body: Mapping[str, Field] | None
    operators: bool
    raw: bool


class _Drop(Exception):  # noqa: N818 - an answer, not an error of ours
    """Closes the connection without an answer."""


class App:
    """One vendor's API. `clock`: seconds since the epoch; `sleep` serves latency and faults;
    `shown` may take secrets out of a copy of the store before an operator sees it."""

    def __init__(
        self,
        name: str,
        *,
        store: Store,
        dialect: Dialect,
        root: str,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        shown: Callable[[State], State] = lambda state: state,
    ) -> None:
        self.name = name
        self.store = store
        self.faults = Faults()
        self.latency = 0.0
        self.unknown: list[str] = []
        self.requests: deque[str] = deque(maxlen=REMEMBERED_REQUESTS)
        self._dialect = dialect
        self._root = root
        self._clock = clock
        self._sleep = sleep
        self._shown = shown
        self._map = Map(strict_slashes=False, redirect_defaults=False, merge_slashes=False)
        self._routes: list[_Route] = []
        self._declare_operators_routes()

    # Declaring

    def route(
        self,
        method: str,
        path: str,
        *,
        query: Collection[str] = (),
        body: Mapping[str, Field] | None = None,
        raw: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declares a handler of the vendor's API; `path` is below the root. `raw`: the body is
        any bytes. A GET answers HEAD too."""
        return self._declare(method, self._root + path, query, body, raw=raw)

    def operator(
        self, method: str, path: str, *, body: Mapping[str, Field] | None = None
    ) -> Callable[[Handler], Handler]:
        """Declares a handler under /_rehearsal, which needs no token and meets no fault."""
        return self._declare(method, "/_rehearsal" + path, (), body, operators=True)

    def _declare(
        self,
        method: str,
        path: str,
        query: Collection[str],
        body: Mapping[str, Field] | None,
        *,
        operators: bool = False,
        raw: bool = False,
    ) -> Callable[[Handler], Handler]:
        def declare(handler: Handler) -> Handler:
            self._map.add(Rule(path, methods=[method], endpoint=len(self._routes)))
            self._routes.append(_Route(handler, frozenset(query), body, operators, raw))
            return handler

        return declare

    def _declare_operators_routes(self) -> None:
        @self.operator("GET", "/state")
        def state(_call: Call) -> Reply:
            return Reply(self._shown(self.store.snapshot()))

        @self.operator("GET", "/requests")
        def requests(_call: Call) -> Reply:
            return Reply({"requests": list(self.requests)})

        @self.operator("GET", "/unknown")
        def unknown(_call: Call) -> Reply:
            return Reply({"unknown": list(self.unknown)})

        @self.operator("GET", "/faults")
        def list_faults(_call: Call) -> Reply:
            return Reply({"faults": self.faults.listed()})

        @self.operator("POST", "/faults", body={f.name: Field(object) for f in fields(Fault)})
        def inject(call: Call) -> Reply:
            try:
                self.faults.inject(Fault.parse(call.body))
            except ValueError as error:
                raise Refusal(422, "invalid_fault", str(error)) from None
            return Reply({"faults": self.faults.listed()}, 201)

        @self.operator("DELETE", "/faults")
        def clear_faults(_call: Call) -> Reply:
            self.faults.clear()
            return Reply()

        @self.operator("PUT", "/latency", body={"seconds": Field((int, float), required=True)})
        def latency(call: Call) -> Reply:
            self.latency = float(call.body["seconds"])
            return Reply({"seconds": self.latency})

    # Answering

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        try:
            response = self._answer(request)
        except (_Drop, ClientDisconnected):
            # werkzeug's development server hands us its socket; the client sees EOF or a reset.
            connection: socket.socket | None = environ.get("werkzeug.socket")
            if connection is not None:
                # Reset when it is closed: a client that still sends would wait for its time-out.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.shutdown(socket.SHUT_RDWR)
            response = Response(status=500, headers={"Connection": "close"})
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        call = Call(
            method=request.method,
            path=request.path.removeprefix(self._root),
            values={},
            query=request.args,
            body={},
            headers=dict(request.headers),
            now=self._clock(),
        )
        status, headers, body = 500, dict[str, str](), None
        try:
            reply = self._dispatch(request, call)
            status, headers, body = reply.status, dict(reply.headers), reply.body
            if body is None and status == 200:
                status = 204
        except Refusal as refusal:
            status, headers = refusal.status, dict(refusal.headers)
            body = self._dialect.envelope(refusal)
        finally:
            self.requests.append(f"{call.method} {request.full_path.rstrip('?')} {status}")
        headers |= self._dialect.headers(call)
        if isinstance(body, bytes):
            response = Response(body, status)
            del response.headers["Content-Type"]  # werkzeug's own guess
            response.headers.update(headers)
            return response
        encoded = b"" if body is None else json.dumps(body).encode()
        return Response(encoded, status, headers, content_type="application/json")

    def _dispatch(self, request: Request, call: Call) -> Reply:
        route = self._match(request, call)
        if route is not None and route.operators:
            self._check(route, request, call)
            with self.store.transaction() as call.state:
                reply = route.handler(call)
            for effect in call.effects:
                effect()
            return reply
        if self.latency:
            self._sleep(self.latency)
        fault = self.faults.take(call.method, call.path)
        if fault is not None:
            self._before(fault)
        if route is not None and route.raw:
            call.raw = request.get_data()  # a slow sender keeps nobody else waiting
        with self.store.transaction() as call.state:
            self._dialect.admit(call)
            if route is None:
                raise self._unknown_route(request, call)
            self._check(route, request, call)
            reply = route.handler(call)
        for effect in call.effects:
            effect()
        if fault is not None:
            self._after(fault)
        return reply

    def _match(self, request: Request, call: Call) -> _Route | None:
        try:
            index, values = self._map.bind_to_environ(request.environ).match()
        except HTTPException:
            return None
        call.values = values
        route: _Route = self._routes[index]
        return route

    def _unknown_route(self, request: Request, call: Call) -> Refusal:
        allowed: Collection[str] = ()
        try:
            self._map.bind_to_environ(request.environ).match()
        except MethodNotAllowed as error:
            allowed = sorted(error.valid_methods or ())
        except HTTPException:
            pass
        self._note(f"{call.method} {request.path}: no such route")
        return self._dialect.no_route(call.method, call.path, allowed)

    def _check(self, route: _Route, request: Request, call: Call) -> None:
        problems = [
            Problem(name, "unknown query parameter", unknown=True)
            for name in request.args
            if name not in route.query
        ]
        raw = request.get_data()
        if raw.strip() and not route.raw:
            try:
                body = json.loads(raw)
            except ValueError:
                raise self._dialect.wrong([Problem("body", "Not valid JSON.")]) from None
            if not isinstance(body, dict):
                raise self._dialect.wrong([Problem("body", "Not a valid object.")])
            call.body = body
        problems += check_fields(route.body or {}, call.body)
        for problem in problems:
            if problem.unknown:
                self._note(f"{call.method} {request.path}: {problem.reason} {problem.path!r}")
        if problems:
            raise self._dialect.wrong(problems)

    def _note(self, line: str) -> None:
        log.error("%s stand-in does not know %s", self.name, line)
        self.unknown.append(line)

    def _before(self, fault: Fault) -> None:
        """What a fault does instead of the request; returns when the request goes on."""
        match fault.kind:
            case "status":
                code = fault.code or _CODES.get(fault.status, "service_error")
                raise Refusal(fault.status, code, fault.message or "injected by the rehearsal")
            case "rate_limit":
                raise self._dialect.rate_limited()
            case "timeout":
                self._sleep(fault.seconds)
                raise _Drop
            case "drop_before_change":
                raise _Drop
            case "die_before_change":
                _die()

    def _after(self, fault: Fault) -> None:
        """What a fault does once the change is on disk; returns when the answer is sent."""
        match fault.kind:
            case "timeout_after_change":
                self._sleep(fault.seconds)
                raise _Drop
            case "drop_after_change":
                raise _Drop
            case "die_after_change":
                _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_CODES: Final = {500: "server_error", 502: "bad_gateway", 503: "unavailable", 504: "timeout"}


class _QuietHandler(WSGIRequestHandler):
    # Small answers on kept-alive connections would otherwise wait 40 ms for the delayed ACK.
    disable_nagle_algorithm = True

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: ARG002 - werkzeug's
        log.debug(message, *args)


class Listener:
    """Serves a WSGI application on loopback in threads of this process; port 0: any free one."""

    def __init__(self, app: Any, host: str = "127.0.0.1", port: int = 0) -> None:
        if not ip_address(host).is_loopback:
            raise ValueError(
                f"{host} is not a loopback address: a stand-in listens on nothing else"
            )
        self._server: BaseWSGIServer = make_server(
            host, port, app, threaded=True, request_handler=_QuietHandler
        )
        self.host = host
        self.port: int = self._server.port
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.05},
            name=f"listener-{self.port}",
            daemon=True,
        )

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> Listener:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
