"""The final URLs as an operator reads of them: real TLS, and an edge that says what it is told."""

from __future__ import annotations

import http.server
import io
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from ops import urls
from ops.engine import Edge
from ops.problems import Refused
from ops.urls import Checked, check
from rehearsal.cluster.certificates import Pair, issue
from rehearsal.traffic.authority import self_signed

GOLDEN = Path(__file__).parent / "golden"
URLS = {
    "api": "https://api.honeydue.test",
    "admin": "https://admin.honeydue.test",
    "landing": "https://honeydue.test",
}
HOSTS = ["honeydue.test", "*.honeydue.test"]


@dataclass
class Front:
    """Where the hosts of the zone are answered for. `says`: path → (status, headers, body), or
    what is done instead."""

    folder: Path
    hosts: list[str] = field(default_factory=lambda: HOSTS)
    says: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def start(self) -> Front:
        authority = Pair(self.folder / "ca.crt", self.folder / "ca.key")
        if not authority.crt.exists():
            certificate, key = self_signed("an edge", ca=True)
            authority.crt.write_bytes(certificate)
            authority.key.write_bytes(key)
        target = Pair(self.folder / "edge.crt", self.folder / "edge.key")
        issue(authority, target, name="edge", hosts=self.hosts, client=False, server=True)
        front = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                front.asked.append((self.headers["Host"], self.path))
                said = front.says.get(self.path, (200, {}, "ok"))
                if callable(said):
                    said = said()
                if said is None:  # the connection breaks
                    return
                status, headers, body = said
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Not on the tests' terminal."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that accepts no certificate."""

        self._server = Server(("127.0.0.1", 0), Handler)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(target.crt, target.key)
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    @property
    def edge(self) -> Edge:
        return Edge("127.0.0.1", self._server.server_port, str(self.folder / "ca.crt"))

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    made = Front(tmp_path).start()
    yield made
    made.stop()


def api(front: Front, **more: Any) -> Checked:
    (found,) = check({"api": URLS["api"]}, front.edge, **{"attempts": 1, "seconds": 60.0, **more})
    return found


def test_each_url_is_asked_by_its_own_name_and_path(front: Front) -> None:
    found = check(URLS, front.edge, attempts=1)
    assert [(each.name, each.url, each.status, each.well) for each in found] == [
        ("api", "https://api.honeydue.test/api/health/", 200, True),
        ("admin", "https://admin.honeydue.test/", 200, True),
        ("landing", "https://honeydue.test/", 200, True),
    ]
    assert all(each.ms is not None and 0 <= each.ms < 5000 for each in found)
    assert set(front.asked) == {
        ("api.honeydue.test", "/api/health/"),
        ("api.honeydue.test", "/api/version"),
        ("admin.honeydue.test", "/"),
        ("honeydue.test", "/"),
    }


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ((200, {}, json.dumps({"version": "237c6b8", "go": "go1.25"})), "237c6b8"),
        ((200, {}, json.dumps({"binary": "sha256:" + "c" * 64, "go": "go1.25"})), "c" * 12),
        ((200, {}, json.dumps({"version": "\x1b[31mred"})), ""),
        ((200, {}, json.dumps(["237c6b8"])), ""),
        ((200, {}, "<html>"), ""),
        ((404, {}, json.dumps({"version": "237c6b8"})), ""),
        (None, ""),
    ],
)
def test_the_version_is_what_api_says_of_itself_or_nothing(
    front: Front, said: Any, version: str
) -> None:
    front.says["/api/version"] = said
    found = api(front)
    assert (found.well, found.version) == (True, version)


@pytest.mark.parametrize(
    ("said", "why", "mend"),
    [
        ((520, {}, ""), "520: Cloudflare got an answer from the nodes that it cannot read", "logs"),
        ((521, {}, ""), "521: the nodes refuse Cloudflare's connection: Traefik", "ops status"),
        ((522, {}, ""), "522: Cloudflare reaches no node in time", "firewall's list"),
        ((523, {}, ""), "523: Cloudflare has no way to the addresses in DNS", "writes the records"),
        ((524, {}, ""), "524: the nodes took the request and gave no answer", "ops logs api"),
        ((525, {}, ""), "525: Cloudflare and Traefik cannot agree on TLS", "origin's certificate"),
        ((526, {}, ""), "526: Cloudflare does not accept the origin's", "origin's certificate"),
        ((530, {}, "error code: 1016"), "530: Cloudflare cannot resolve the origin's", "records"),
        ((530, {}, "error code: 1033"), "530: Cloudflare cannot reach the origin", "records"),
        ((403, {"cf-mitigated": "challenge"}, ""), "403: Cloudflare asks whether we", "Security"),
        ((403, {}, ""), "403: it, or a rule at Cloudflare, refuses", "Security"),
        ((404, {}, "404 page not found"), "404: nothing is there: no ingress has", "ingress"),
        ((500, {}, ""), "500: the application fails", "ops logs api"),
        ((502, {}, ""), "502: Traefik gets no answer from the pod", "ops logs api"),
        ((503, {}, ""), "503: no pod of it is ready, or it says itself that", "ops logs api"),
        ((504, {}, ""), "504: the pod gives Traefik no answer in time", "ops logs api"),
        ((418, {}, ""), "418: it answers with an error", "ops logs api"),
    ],
)
def test_each_error_on_the_way_is_told_with_what_it_means_here(
    front: Front, said: Any, why: str, mend: str
) -> None:
    front.says["/api/health/"] = said
    found = api(front)
    assert found.status == said[0]
    assert found.why.startswith(why)
    assert mend in found.mend


def test_the_logs_that_help_are_those_of_the_service_that_answers(front: Front) -> None:
    front.says["/"] = (500, {}, "")
    admin, landing = check(
        {"admin": URLS["admin"], "landing": URLS["landing"]}, front.edge, attempts=1
    )
    assert (admin.mend, landing.mend) == ("python -m ops logs admin", "python -m ops logs api")


@pytest.mark.parametrize(
    ("status", "headers", "on_the_way"),
    [
        (200, {}, False),
        (403, {}, False),
        (403, {"cf-mitigated": "challenge"}, True),
        (429, {}, True),
        *((status, {}, True) for status in (521, 522, 523, 525, 526, 530)),
        *((status, {}, False) for status in (500, 502, 503, 504, 520, 524)),
    ],
)
def test_what_cannot_be_the_applications_fault_is_told_apart(
    front: Front, status: int, headers: dict[str, str], on_the_way: bool
) -> None:
    front.says["/api/health/"] = (status, headers, "")
    assert api(front).on_the_way is on_the_way


@pytest.mark.parametrize(
    ("cause", "why", "on_the_way"),
    [
        (httpx.ConnectTimeout("timed out"), "no connection within 10 s", True),
        (httpx.ConnectError("[Errno 101] Network is unreachable"), "no connection: Network", True),
        (httpx.ConnectError("[Errno 113] No route to host"), "no connection: No route", True),
        (httpx.ConnectError("[Errno 111] Connection refused"), "the connection is refused", True),
        (httpx.ConnectError("[Errno -2] Name or service not known"), "DNS does not know", True),
        (httpx.ConnectError("[Errno -3] Temporary failure in name resolution"), "this ma", True),
        (httpx.ConnectError("[SSL: TLSV1_ALERT] alert"), "TLS fails: ", True),
        (httpx.ReadTimeout("timed out"), "no answer within 10 s", False),
        (httpx.ReadError("reset"), "the connection broke: reset", False),
        (httpx.RemoteProtocolError("disconnected"), "the connection broke: disc", False),
    ],
)
def test_a_connection_that_is_never_made_is_no_fault_of_the_application(
    front: Front,
    monkeypatch: pytest.MonkeyPatch,
    cause: httpx.HTTPError,
    why: str,
    on_the_way: bool,
) -> None:
    """Cloudflare takes every connection; whoever cannot reach it has no network."""

    def fails(*_: object) -> None:
        raise cause

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", fails)
    found = api(front, seconds=10.0)
    assert (found.on_the_way, found.status) == (on_the_way, None)
    assert found.why.startswith(why)


# --- redirects ----------------------------------------------------------------------------------


def test_a_redirect_within_the_host_is_followed(front: Front) -> None:
    front.says["/"] = (308, {"Location": "/login"}, "")
    front.says["/login"] = (302, {"Location": "https://admin.honeydue.test/home"}, "")
    (found,) = check({"admin": URLS["admin"]}, front.edge, attempts=1)
    assert (found.well, found.status) == (True, 200)
    assert [path for _, path in front.asked] == ["/", "/login", "/home"]


@pytest.mark.parametrize("to", ["https://evil.example/", "http://admin.honeydue.test/"])
def test_a_redirect_to_elsewhere_is_a_failure_and_not_followed(front: Front, to: str) -> None:
    front.says["/"] = (301, {"Location": to}, "")
    (found,) = check({"admin": URLS["admin"]}, front.edge, attempts=1)
    assert found.why == f"sends users on to {to.rstrip('/')}"
    assert len(front.asked) == 1


def test_a_circle_of_redirects_names_its_usual_cause(front: Front) -> None:
    front.says["/"] = (301, {"Location": "https://admin.honeydue.test/"}, "")
    (found,) = check({"admin": URLS["admin"]}, front.edge, attempts=1)
    assert found.why == (
        "redirects in a circle: does the origin redirect http to https while Cloudflare is not in "
        "mode strict (dns.ssl)?"
    )


# --- no answer ----------------------------------------------------------------------------------


def test_a_certificate_for_another_name_is_not_accepted(tmp_path: Path) -> None:
    front = Front(tmp_path, hosts=["other.test"]).start()
    try:
        found = api(front)
    finally:
        front.stop()
    assert found.why.startswith("its certificate is not accepted: Hostname mismatch")
    assert "Edge Certificates" in found.mend


def test_a_certificate_of_an_unknown_authority_is_not_accepted(
    front: Front, tmp_path: Path
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(self_signed("another", ca=True)[0])
    edge = Edge(front.edge.host, front.edge.port, str(other))
    (found,) = check({"api": URLS["api"]}, edge, attempts=1)
    assert found.why.startswith("its certificate is not accepted: ")
    assert "_ssl.c" not in found.why


def test_an_authority_that_cannot_be_read_is_a_wrong_setting(front: Front) -> None:
    with pytest.raises(Refused, match=r"the CA of the edge cannot be read: /nowhere/ca\.pem"):
        check(URLS, Edge(front.edge.host, front.edge.port, "/nowhere/ca.pem"), attempts=1)


def test_a_connection_that_is_refused_or_breaks_is_told_in_words(front: Front) -> None:
    front.says["/api/health/"] = None
    assert api(front).why.startswith("the connection broke: ")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        edge = Edge("127.0.0.1", closed.getsockname()[1], front.edge.ca)
        (found,) = check({"api": URLS["api"]}, edge, attempts=1)
    assert (found.status, found.ms, found.why) == (None, None, "the connection is refused")


def test_an_answer_that_does_not_come_is_waited_for_only_so_long(front: Front) -> None:
    late = threading.Event()
    front.says["/api/health/"] = lambda: late.wait(60) and None  # and then the connection breaks
    found = api(front, seconds=httpx.Timeout(60.0, read=0.2))
    late.set()
    assert found.why.startswith("no answer within ")


@pytest.mark.parametrize(
    ("cause", "why"),
    [
        (httpx.ConnectError("[Errno -2] Name or service not known"), "DNS does not know x.test"),
        (
            httpx.ConnectError("[Errno 8] nodename nor servname provided, or not known"),
            "DNS does not know x.test",
        ),
        (
            httpx.ConnectError("[Errno -3] Temporary failure in name resolution"),
            "this machine resolves no name at all",
        ),
        (
            httpx.ConnectError("[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error"),
            "TLS fails: [SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert internal error",
        ),
        (httpx.ConnectTimeout(""), "no connection within 10 s"),
        (httpx.ReadError(""), "the connection broke: ReadError"),
    ],
)
def test_what_the_network_says_is_told_in_the_operators_words(
    monkeypatch: pytest.MonkeyPatch, cause: httpx.HTTPError, why: str
) -> None:
    def fail(_self: httpx.Client, _url: str) -> httpx.Response:
        raise cause

    monkeypatch.setattr(httpx.Client, "get", fail)
    (found,) = check({"landing": "https://x.test"}, None, attempts=1)
    assert found.why == why


# --- again --------------------------------------------------------------------------------------


class Clock:
    """Of a world in which an answer takes `each` seconds."""

    def __init__(self, each: float = 0.0) -> None:
        self.now, self.each = 0.0, each

    def __call__(self) -> float:
        self.now += self.each
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def answers(*statuses: int) -> Callable[[], Any]:
    each = iter(statuses)
    return lambda: (next(each), {}, "")


def test_what_lags_behind_a_rollout_is_asked_again_until_it_is_well(front: Front) -> None:
    front.says["/api/health/"] = answers(521, 503, 200)
    clock = Clock()
    found = api(front, attempts=11, sleep=clock.sleep, clock=clock)
    assert (found.well, found.status, found.tries, clock.now) == (True, 200, 3, 6.0)


def test_half_a_minute_later_it_is_a_failure(front: Front) -> None:
    front.says["/api/health/"] = answers(*[503] * 99)
    clock = Clock()
    found = api(front, attempts=urls.ATTEMPTS, sleep=clock.sleep, clock=clock)
    assert (found.status, found.tries, clock.now) == (503, 11, 30.0)


def test_slow_failures_are_not_asked_for_longer_than_quick_ones(front: Front) -> None:
    front.says["/api/health/"] = answers(*[524] * 99)
    clock = Clock(each=5)  # each look at it; an attempt takes three
    found = api(front, attempts=urls.ATTEMPTS, sleep=clock.sleep, clock=clock)
    assert found.tries < 4
    assert clock.now < 60


def test_without_urls_nothing_is_asked() -> None:
    assert check({}, Edge("127.0.0.1", 1, "/nowhere")) == []


# --- what is read -------------------------------------------------------------------------------

CHECKED = [
    Checked(
        name="api",
        url="https://api.myhoneydue.com/api/health/",
        status=200,
        ms=84,
        version="237c6b8",
    ),
    Checked(
        name="admin",
        url="https://admin.myhoneydue.com/",
        status=522,
        ms=19034,
        why="522: Cloudflare reaches no node in time: they are down, or the firewall does not know "
        "Cloudflare's addresses",
        mend="python -m ops status shows nodes and Traefik; `up` renews the firewall's list",
        tries=3,
    ),
    Checked(
        name="landing",
        url="https://myhoneydue.com/",
        why="DNS does not know myhoneydue.com",
        mend="`up` writes the records anew",
    ),
]


@pytest.mark.parametrize("width", [80, 120])
def test_the_check_reads_as_the_golden_text(width: int) -> None:
    screen = io.StringIO()
    urls.show(CHECKED, Console(file=screen, width=width, highlight=False))
    read = "\n".join(line.rstrip() for line in screen.getvalue().splitlines()) + "\n"
    assert read == (GOLDEN / f"urls-{width}.txt").read_text()


def test_the_document_for_programs_has_the_same() -> None:
    assert urls.document(CHECKED[:1]) == [
        {
            "name": "api",
            "url": "https://api.myhoneydue.com/api/health/",
            "ok": True,
            "status": 200,
            "milliseconds": 84,
            "version": "237c6b8",
            "why": None,
            "do": None,
            "tries": 1,
            "failedBefore": False,
        }
    ]
