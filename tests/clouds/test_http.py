"""The plumbing that both stand-ins share."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from rehearsal.clouds.faults import Fault
from rehearsal.clouds.http import (
    App,
    Call,
    Field,
    Listener,
    Problem,
    Refusal,
    Reply,
    Store,
    check_fields,
)


class Plain:
    """A dialect with no manners."""

    def admit(self, call: Call) -> None: ...

    def headers(self, call: Call) -> Mapping[str, str]:  # noqa: ARG002 - the protocol's
        return {"X-Vendor": "plain"}

    def wrong(self, problems: list[Problem]) -> Refusal:
        return Refusal(422, "wrong", "; ".join(f"{p.path}: {p.reason}" for p in problems))

    def no_route(self, method: str, path: str, allowed: Collection[str]) -> Refusal:
        return Refusal(404, "no_route", f"{method} {path} {sorted(allowed)}")

    def rate_limited(self) -> Refusal:
        return Refusal(429, "slow_down", "too many requests")

    def envelope(self, refusal: Refusal) -> Any:
        return {"code": refusal.code, "message": refusal.message}


@dataclass
class Bench:
    app: App
    url: str
    slept: list[float] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = requests.request(method, self.url + path, json=body, timeout=60)
        return answer.status_code, answer.json() if answer.content else None


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    slept: list[float] = []
    store = Store(tmp_path / "store.json", initial=lambda: {"sum": 0, "told": []})
    app = App("Plain", store=store, dialect=Plain(), root="/api", sleep=slept.append)

    @app.route("POST", "/add", body={"number": Field(int, required=True)})
    def add(call: Call) -> Reply:
        call.state["sum"] += call.body["number"]
        call.after(lambda: told.append(json.loads(store.path.read_text())["sum"]))
        if call.state["sum"] > 10:
            raise Refusal(409, "too_much", "that is more than ten")
        return Reply({"sum": call.state["sum"]}, 201)

    told: list[int] = []
    app.operator("GET", "/told")(lambda _call: Reply({"told": told}))
    listener = Listener(app.wsgi_app).start()
    yield Bench(app, listener.url, slept)
    listener.stop()


def test_a_change_is_kept_when_it_succeeds_and_undone_when_it_does_not(bench: Bench) -> None:
    assert bench.ask("POST", "/api/add", {"number": 7}) == (201, {"sum": 7})
    assert bench.ask("POST", "/api/add", {"number": 7})[0] == 409
    assert bench.ask("GET", "/_rehearsal/state")[1]["sum"] == 7
    assert Store(bench.app.store.path, initial=dict).snapshot()["sum"] == 7


def test_effects_run_once_the_change_is_on_disk_and_not_when_it_is_refused(bench: Bench) -> None:
    bench.ask("POST", "/api/add", {"number": 7})
    bench.ask("POST", "/api/add", {"number": 7})
    assert bench.ask("GET", "/_rehearsal/told")[1] == {"told": [7]}


def test_latency_makes_every_answer_wait_but_the_operators(bench: Bench) -> None:
    bench.ask("PUT", "/_rehearsal/latency", {"seconds": 0.2})
    bench.ask("GET", "/_rehearsal/state")
    bench.ask("POST", "/api/add", {"number": 1})
    bench.ask("GET", "/api/nothing")
    assert bench.slept == [0.2, 0.2]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"kind": "meteor"}, "kind must be one of"),
        ({}, "kind must be one of"),
        ({"kind": "status", "color": 1}, "unknown field"),
        ({"kind": "status", "times": 0}, "times must be a positive number"),
        ({"kind": "status", "status": 200}, "status must be from 400 to 599"),
        ({"kind": "status", "path": 7}, "path must be a string"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(
    bench: Bench, fault: dict[str, Any], message: str
) -> None:
    status, answer = bench.ask("POST", "/_rehearsal/faults", fault)
    assert status == 422
    assert message in answer["message"]


def test_a_fault_counts_down_and_one_without_end_stays(bench: Bench) -> None:
    bench.app.faults.inject(Fault("status", times=2, status=500))
    assert [bench.ask("POST", "/api/add", {"number": 1})[0] for _ in range(3)] == [500, 500, 201]
    bench.app.faults.inject(Fault("status", times=None, status=502))
    assert [bench.ask("POST", "/api/add", {"number": 1})[0] for _ in range(3)] == [502] * 3
    bench.ask("DELETE", "/_rehearsal/faults")
    assert bench.ask("POST", "/api/add", {"number": 1})[0] == 201


def test_a_timeout_waits_and_then_hangs_up_without_the_change(bench: Bench) -> None:
    bench.app.faults.inject(Fault("timeout", seconds=9.0))
    with pytest.raises(requests.ConnectionError):
        bench.ask("POST", "/api/add", {"number": 1})
    assert bench.slept == [9.0]
    assert bench.ask("GET", "/_rehearsal/state")[1]["sum"] == 0


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        ({"n": 1}, []),
        ({"n": True}, ["n: Not a valid integer."]),
        ({"n": "1"}, ["n: Not a valid integer."]),
        ({}, ["n: Missing data for required field."]),
        ({"n": 1, "m": 2}, ["m: unknown field"]),
        ({"n": 1, "list": [1, "x"]}, ["list[1]: Not a valid integer."]),
        ({"n": 1, "map": {"a": 1}}, ["map.a: Not a valid string."]),
        ({"n": 1, "inner": {"deep": 1, "more": 2}}, ["inner.more: unknown field"]),
        ({"n": 1, "inner": None}, ["inner: Not a valid object."]),
        ({"n": 1, "maybe": None}, []),
        ({"n": 1, "any": [None, {"x": 1}]}, []),
    ],
)
def test_a_body_is_checked_to_the_last_field(body: dict[str, Any], problems: list[str]) -> None:
    fields = {
        "n": Field(int, required=True),
        "list": Field(list, of=Field(int)),
        "map": Field(dict, of=Field(str)),
        "inner": Field(dict, fields={"deep": Field(int)}),
        "maybe": Field(str, nullable=True),
        "any": Field(object),
    }
    assert [f"{p.path}: {p.reason}" for p in check_fields(fields, body)] == problems


def test_a_stand_in_listens_on_nothing_but_loopback() -> None:
    with pytest.raises(ValueError, match="not a loopback address"):
        Listener(lambda *_: [], host="0.0.0.0")
