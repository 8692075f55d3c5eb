"""The request hammer against an edge that answers, errs and says nothing."""

from __future__ import annotations

import itertools
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.hammer import Edge, Hammered, Shot, figures, hammering
from rehearsal.home import Home
from rehearsal.traffic.authority import edge_pair
from rehearsal.traffic.http import Answer, Handler, Listener, Request

HOST = "api.example.org"


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[Handler], Edge]]:
    home = Home(tmp_path)
    pair = edge_pair(home, ["example.org"])
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pair.crt, pair.key)
    with ExitStack() as stack:

        def begin(handler: Handler) -> Edge:
            listener = Listener(handler, "127.0.0.1", 0, lambda: tls)
            stack.callback(listener.stop)
            return Edge.of({"HONEYDUE_EDGE": f"127.0.0.1:{listener.port},{home.edge_ca}"})

        yield begin


def answer(_request: Request) -> Answer:
    headers = [("Content-Type", "application/json"), ("X-Rehearsal-Pod", "api-1")]
    return Answer(200, headers, json.dumps({"binary": "sha256:1"}).encode())


def enough(found: Hammered, requests: int = 20) -> None:
    while found.sent < requests:
        time.sleep(0.01)


def test_every_request_is_told_with_who_answered_it(begin: Callable[[Handler], Edge]) -> None:
    with hammering(begin(answer), HOST, rate=200, workers=4) as found:
        enough(found)
    assert (found.lost, found.failed) == (0, [])
    assert found.by("status") == {200: found.sent}
    assert found.by("pod") == {"api-1": found.sent}
    assert found.by("version") == {"sha256:1": found.sent}
    assert set(found.by("kept")) == {True, False}


def test_a_request_that_is_refused_or_answered_with_an_error_has_failed(
    begin: Callable[[Handler], Edge],
) -> None:
    turns = itertools.count()

    def sometimes(request: Request) -> Answer:
        return Answer.text(502, "Bad Gateway") if next(turns) % 5 == 0 else answer(request)

    with hammering(begin(sometimes), HOST, rate=200, workers=4) as found:
        enough(found)
    assert {shot.status for shot in found.failed} == {502}
    assert len(found.failed) == -(-found.sent // 5)

    nobody = Edge("127.0.0.1:1", begin(answer).ca)
    with hammering(nobody, HOST, rate=50, workers=2) as found:
        enough(found, 2)
    assert found.by("status") == {0: found.sent}
    assert "refused" in found.failed[0].error


def test_figures_are_of_all_requests() -> None:
    shots = [Shot(at=n, seconds=0.1 * (n + 1), status=200, pod="a", version="1") for n in range(4)]
    found = Hammered([*shots, Shot(at=4, seconds=9, status=0, error="cut off")], sent=6)
    assert figures(found) == pytest.approx(
        {
            **{"sent": 6, "failed": 1, "lost": 1, "median": 200.0, "p99": 400.0, "gap": 1.1},
            **{"pods": 1, "versions": 1},
        }
    )
