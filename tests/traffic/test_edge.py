"""Cloudflare's proxy in front of origins on loopback: whom it asks, and which of its errors."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from rehearsal.cluster.certificates import Pair, issue
from rehearsal.home import Home
from rehearsal.traffic.authority import edge_pair, self_signed
from rehearsal.traffic.edge import Edge, Site, find
from rehearsal.traffic.http import Answer, Listener, Request

ZONE = "0" * 32
PATIENCE = 120.0  # seconds; only a machine that stands still needs more than one


def store(
    *records: dict[str, Any], authorities: dict[str, Any] | None = None, **settings: str
) -> dict[str, Any]:
    """What the Cloudflare stand-in's store holds."""
    return {
        "zones": {ZONE: {"id": ZONE, "name": "example.org"}},
        "records": {str(i): record for i, record in enumerate(records)},
        "settings": {ZONE: {name: {"value": value} for name, value in settings.items()}},
        "authorities": authorities or {},
    }


def record(
    content: str, *, name: str = "api", type: str = "A", proxied: bool = True
) -> dict[str, Any]:
    return {
        "zone_id": ZONE,
        "name": f"{name}.example.org",
        "type": type,
        "content": content,
        "proxied": proxied,
    }


def said(answer: Site | Answer) -> tuple[int, str, str]:
    assert isinstance(answer, Answer)
    return answer.status, answer.body.decode(), dict(answer.headers)["X-Rehearsal"]


class Origins:
    """Listeners that answer with what they were asked; `at[address, port]` is where they are."""

    def __init__(self, stack: ExitStack) -> None:
        self.at: dict[tuple[str, int], tuple[str, int]] = {}
        self.requests: list[tuple[str, Request]] = []
        self._stack = stack

    def add(
        self,
        address: str,
        port: int = 80,
        *,
        tls: ssl.SSLContext | None = None,
        answer: Answer | None = None,
    ) -> None:
        def handle(request: Request) -> Answer:
            self.requests.append((address, request))
            return answer or Answer.text(200, f"from {address}", ("X-Own", "yes"))

        listener = Listener(handle, "127.0.0.1", 0, (lambda: tls) if tls else None)
        self._stack.callback(listener.stop)
        self.at[address, port] = "127.0.0.1", listener.port

    def add_raw(self, address: str, said: bytes) -> None:
        """Whatever it is asked: these bytes, and the end."""
        server = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.at[address, 80] = "127.0.0.1", server.getsockname()[1]

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        self._stack.callback(server.shutdown, socket.SHUT_RDWR)

    def reach(self, address: str, port: int) -> tuple[str, int]:
        return self.at.get((address, port), ("127.0.0.1", 1))  # nobody listens on port 1


@pytest.fixture
def origins() -> Iterator[Origins]:
    with ExitStack() as stack:
        yield Origins(stack)


Visit = Callable[..., httpx.Response]


@pytest.fixture
def visit(origins: Origins, tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], Visit]]:
    """Starts an edge that knows `state`; a visitor of it, who trusts its authority alone."""
    home = Home(tmp_path)
    pair = edge_pair(home, ["example.org"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.crt, pair.key)
    trusting = ssl.create_default_context(cafile=home.edge_ca)
    with ExitStack() as stack:

        def begin(state: dict[str, Any]) -> Visit:
            edge = Edge(lambda: state, origins.reach)
            stack.callback(edge.close)
            listener = Listener(edge, "127.0.0.1", 0, lambda: tls)
            stack.callback(listener.stop)
            client = stack.enter_context(
                httpx.Client(verify=trusting, trust_env=False, timeout=PATIENCE)
            )

            def ask(
                path: str = "/",
                host: str = "api.example.org",
                *,
                scheme: str = "https",
                method: str = "GET",
                headers: dict[str, str] | None = None,
                content: bytes | None = None,
            ) -> httpx.Response:
                return client.request(
                    method,
                    f"{scheme}://127.0.0.1:{listener.port}{path}",
                    headers={"Host": host, **(headers or {})},
                    content=content,
                    extensions={"sni_hostname": host},
                )

            return ask

        yield begin


# --- whose records ---


def test_a_host_of_no_zone_is_not_cloudflare_s() -> None:
    assert said(find(store(), "example.com"))[:2] == (409, "error code: 1001\n")
    assert said(find(store(), "notexample.org"))[0] == 409
    assert said(find(store(), ""))[2] == "no zone has a request without a host"


def test_a_name_without_an_address_has_no_origin() -> None:
    assert said(find(store(), "api.example.org")) == (
        *(530, "error code: 1016\n"),
        "api.example.org has no record",
    )
    named = record("example.net", type="CNAME")
    assert "CNAME records, which are not followed" in said(find(store(named), "api.example.org"))[2]


def test_names_that_are_not_proxied_lead_past_the_edge() -> None:
    bare = record("127.80.0.1", proxied=False)
    assert "is not proxied" in said(find(store(bare), "api.example.org"))[2]
    both = find(store(bare, record("127.80.0.2")), "api.example.org")
    assert isinstance(both, Site)
    assert both.origins == ("127.80.0.1", "127.80.0.2")


def test_ipv6_alone_is_said_to_be_unreachable() -> None:
    answer = find(store(record("2001:db8::1", type="AAAA")), "api.example.org")
    assert said(answer)[0] == 523
    assert "no IPv6 is played" in said(answer)[2]


# --- whom it asks ---


def test_a_request_reaches_the_origin_as_it_was_with_cloudflare_s_headers(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    origins.add("127.80.0.1")
    ask = visit(store(record("127.80.0.1"), ssl="flexible"))
    answer = ask(
        "/a%2Fb?c=%20d",
        method="POST",
        content=b"hello",
        headers={"X-Forwarded-For": "203.0.113.9", "Cookie": "a=1"},
    )
    assert (answer.status_code, answer.text) == (200, "from 127.80.0.1")
    assert answer.headers["X-Own"] == "yes"
    assert answer.headers["Server"] == "cloudflare"
    [(_, request)] = origins.requests
    assert (request.method, request.target, request.body) == ("POST", "/a%2Fb?c=%20d", b"hello")
    assert request.host == "api.example.org"
    assert request.header("cookie") == "a=1"
    assert request.header("x-forwarded-for") == "203.0.113.9, 127.0.0.1"
    assert request.header("x-forwarded-proto") == "https"
    assert request.header("cf-connecting-ip") == "127.0.0.1"
    assert request.header("cf-ray") == answer.headers["CF-Ray"]


def test_requests_are_spread_over_every_address(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    addresses = ["127.80.0.1", "127.80.0.2", "127.80.0.3"]
    for address in addresses:
        origins.add(address)
    ask = visit(store(*map(record, addresses), ssl="flexible"))
    assert sorted(ask().text for _ in range(6)) == sorted(f"from {a}" for a in addresses * 2)


def test_one_refused_connection_is_nobody_s_loss_and_two_are_521(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    addresses = ["127.80.0.1", "127.80.0.2", "127.80.0.3"]
    for address in addresses[1:]:
        origins.add(address)
    ask = visit(store(*map(record, addresses), ssl="flexible"))
    assert [ask().status_code for _ in range(6)] == [200] * 6
    del origins.at["127.80.0.2", 80]
    answers = [ask() for _ in range(3)]
    assert sorted(answer.status_code for answer in answers) == [200, 200, 521]
    down = next(answer for answer in answers if answer.status_code == 521)
    assert down.text == "error code: 521\n"
    assert down.headers["X-Rehearsal"].startswith("127.80.0.")


def test_what_the_origin_itself_says_is_passed_on(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    origins.add("127.80.0.1", answer=Answer.text(502, "Bad Gateway"))
    origins.add("127.80.0.2")
    ask = visit(store(record("127.80.0.1"), record("127.80.0.2"), ssl="flexible"))
    assert sorted((ask().status_code, ask().status_code)) == [200, 502]


@pytest.mark.parametrize("bytes_", [b"", b"not http\r\n\r\n", b"HTTP/1.1 200 OK\r\nConte"])
def test_an_origin_that_makes_no_sense_is_520(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit], bytes_: bytes
) -> None:
    origins.add_raw("127.80.0.1", bytes_)
    assert visit(store(record("127.80.0.1"), ssl="flexible"))().status_code == 520


def test_a_kept_connection_that_has_gone_is_followed_by_a_new_one(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    kept = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"  # and closed, without a word of it
    origins.add_raw("127.80.0.1", kept)
    ask = visit(store(record("127.80.0.1"), ssl="flexible"))
    assert [ask().text for _ in range(3)] == ["ok"] * 3


def test_http_is_sent_to_https_where_the_zone_says_so(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    origins.add("127.80.0.1")
    at = record("127.80.0.1")
    moved = visit(store(at, ssl="flexible", always_use_https="on"))
    answer = moved("/x?y=1", scheme="http")
    assert answer.status_code == 301
    assert answer.headers["Location"] == "https://api.example.org/x?y=1"
    assert moved("/x?y=1").status_code == 200
    plain = visit(store(at, ssl="flexible"))("/", scheme="http")
    assert plain.status_code == 200
    assert origins.requests[-1][1].header("x-forwarded-proto") == "http"


# --- TLS to the origin ---


@pytest.fixture
def origin_ca(tmp_path: Path) -> tuple[dict[str, Any], Callable[[str], ssl.SSLContext]]:
    """(the store's authorities, what makes an origin's context with a certificate for a name)."""
    certificate, key = self_signed("Origin CA", ca=True)
    ca = Pair(tmp_path / "origin-ca.crt", tmp_path / "origin-ca.key")
    ca.crt.write_bytes(certificate)
    ca.key.write_bytes(key)

    def context(host: str) -> ssl.SSLContext:
        leaf = Pair(tmp_path / "leaf.crt", tmp_path / "leaf.key")
        issue(ca, leaf, name="origin", hosts=[host], server=True, client=False)
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(leaf.crt, leaf.key)
        return made

    return {"origin-ecc": {"certificate": certificate.decode()}}, context


def test_strict_asks_by_tls_and_demands_the_origin_ca_s_certificate_for_the_host(
    origins: Origins,
    visit: Callable[[dict[str, Any]], Visit],
    origin_ca: tuple[dict[str, Any], Callable[[str], ssl.SSLContext]],
) -> None:
    authorities, context = origin_ca
    at = record("127.80.0.1")
    origins.add("127.80.0.1", 443, tls=context("api.example.org"))
    another = record("127.80.0.1", name="admin")
    strict = visit(store(at, another, authorities=authorities, ssl="strict"))
    assert strict().status_code == 200
    assert strict(host="admin.example.org").status_code == 526  # though a connection is open
    assert origins.requests[-1][1].tls

    nobody = visit(store(at, ssl="strict"))()
    assert (nobody.status_code, nobody.text) == (526, "error code: 526\n")
    assert visit(store(at, ssl="full"))().status_code == 200

    origins.add("127.80.0.1", 443, tls=context("other.example.org"))
    assert visit(store(at, authorities=authorities, ssl="strict"))().status_code == 526


def test_an_origin_that_speaks_no_tls_is_525(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    origins.add("127.80.0.1", 443)
    assert visit(store(record("127.80.0.1"), ssl="full"))().status_code == 525


def test_flexible_never_asks_by_tls(
    origins: Origins, visit: Callable[[dict[str, Any]], Visit]
) -> None:
    origins.add("127.80.0.1", 80)
    assert visit(store(record("127.80.0.1"), ssl="flexible"))().status_code == 200
    assert not origins.requests[-1][1].tls


def test_the_edge_s_authority_is_made_once_and_its_key_is_nobody_else_s(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first, ca = edge_pair(home, ["example.org"]).crt.read_bytes(), home.edge_ca.read_bytes()
    assert edge_pair(home, ["example.org"]).crt.read_bytes() != first
    assert home.edge_ca.read_bytes() == ca
    assert {file.stat().st_mode & 0o77 for file in (tmp_path / "edge").glob("*.key")} == {0}
