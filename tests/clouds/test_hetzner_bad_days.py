"""What Hetzner answers on a bad day, as hcloud-go 2.49 asks and decodes it.

Which of these the plugin survives is decided by hcloud-go's retryPolicy (client_handler_retry.go):
the codes conflict, rate_limit_exceeded, bad_gateway and timeout, a 502 or 504 without a body of the
API's, and a time-out of the network; up to five times. `locked`, 503 and a broken connection it
reports at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clouds.hetzner_cloud import BASE, KEY, Running, running


@pytest.fixture
def hetzner(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:
        yield found


def made(hetzner: Running, path: str, **body: Any) -> dict[str, Any]:
    status, answer = hetzner.ask("POST", path, body)
    assert status == 201, answer
    return answer


def fail(hetzner: Running, command: str) -> None:
    body = {"command": command, "code": "action_failed", "message": "Host is on fire"}
    hetzner.operate("PUT", "/failing-action", body)


def outcome(hetzner: Running, action: dict[str, Any]) -> tuple[str, Any]:
    """How it ended, as hcloud-go's WaitFor asks; the list must have exactly what was asked for."""
    _, answer = hetzner.ask("GET", f"/actions?id={action['id']}&page=1&sort=status&sort=id")
    (found,) = answer["actions"]
    return found["status"], found["error"]


FIRE = ("error", {"code": "action_failed", "message": "Host is on fire"})


def test_an_action_that_fails_says_so_once_and_has_changed_nothing(hetzner: Running) -> None:
    network = made(hetzner, "/networks", name="n", ip_range="10.0.0.0/16")["network"]["id"]
    subnet = {"type": "cloud", "ip_range": "10.0.1.0/24", "network_zone": "eu-central"}
    made(hetzner, f"/networks/{network}/actions/add_subnet", **subnet)
    path = f"/servers/{made(hetzner, '/servers', name='a', **BASE)['server']['id']}"
    before = hetzner.ask("GET", path)[1]
    verbs = list(hetzner.diary.verbs)
    for command, request in {
        "attach_to_network": ("attach_to_network", {"network": network, "ip": "10.0.1.7"}),
        "stop_server": ("poweroff", None),
        "change_protection": ("change_protection", {"delete": True, "rebuild": True}),
        "rebuild_server": ("rebuild", {"image": "debian-13"}),
    }.items():
        verb, body = request
        fail(hetzner, command)
        status, answer = hetzner.ask("POST", f"{path}/actions/{verb}", body)
        assert status == 201, "the request is taken; its action fails"
        assert outcome(hetzner, answer["action"]) == FIRE
        assert hetzner.ask("GET", path)[1] == before, command
    fail(hetzner, "delete_server")
    assert outcome(hetzner, hetzner.ask("DELETE", path)[1]["action"]) == FIRE
    assert hetzner.ask("GET", path)[1] == before
    assert hetzner.diary.verbs == verbs
    attach = made(hetzner, f"{path}/actions/attach_to_network", network=network, ip="10.0.1.7")
    assert outcome(hetzner, attach["action"]) == ("success", None)


def test_a_server_that_does_not_start_is_there_and_off(hetzner: Running) -> None:
    fail(hetzner, "start_server")
    answer = made(hetzner, "/servers", name="a", **BASE)
    assert outcome(hetzner, answer["action"]) == ("success", None)
    assert [outcome(hetzner, action) for action in answer["next_actions"]] == [FIRE]
    path = f"/servers/{answer['server']['id']}"
    assert hetzner.ask("GET", path)[1]["server"]["status"] == "off"
    assert hetzner.diary.verbs == []
    made(hetzner, f"{path}/actions/poweron")
    assert hetzner.diary.verbs == ["start"]


def test_an_action_runs_before_it_fails(tmp_path: Path) -> None:
    with running(tmp_path, action_seconds=1000.0) as hetzner:
        fail(hetzner, "start_server")
        (start,) = made(hetzner, "/servers", name="a", **BASE)["next_actions"]
        assert outcome(hetzner, start) == ("running", None)


def test_a_failed_action_is_still_failed_after_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as hetzner:
        fail(hetzner, "create_server")
        action = made(hetzner, "/servers", name="a", **BASE)["action"]
    with running(tmp_path) as hetzner:
        assert outcome(hetzner, action) == FIRE


def test_as_many_actions_as_hcloud_go_asks_for_at_once_are_on_one_page(hetzner: Running) -> None:
    ids = [
        made(hetzner, "/firewalls", name=f"f{number}")["actions"][0]["id"] for number in range(27)
    ]
    for chunk in (ids[:25], ids[25:]):  # WaitForFunc: chunks of 25, and no per_page
        query = "&".join(f"id={id_}" for id_ in chunk)
        _, answer = hetzner.ask("GET", f"/actions?{query}&page=1&sort=status&sort=id")
        assert {action["id"] for action in answer["actions"]} == set(chunk)
        assert answer["meta"]["pagination"]["next_page"] is None


def test_a_list_of_more_than_a_page_is_read_to_its_end(hetzner: Running) -> None:
    for number in range(27):
        made(hetzner, "/placement_groups", name=f"g{number}", type="spread")
    names: list[str] = []
    page: int | None = 1
    while page is not None:
        _, answer = hetzner.ask("GET", f"/placement_groups?page={page}&per_page=10")
        names += [group["name"] for group in answer["placement_groups"]]
        page = answer["meta"]["pagination"]["next_page"]
    assert names == [f"g{number}" for number in range(27)]
    assert len(hetzner.ask("GET", "/placement_groups")[1]["placement_groups"]) == 25


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "rate_limit"}, 429, "rate_limit_exceeded"),
        ({"kind": "status", "status": 409, "code": "conflict"}, 409, "conflict"),
        ({"kind": "status", "status": 423, "code": "locked"}, 423, "locked"),
        ({"kind": "status", "status": 502}, 502, "bad_gateway"),
        ({"kind": "status", "status": 503}, 503, "unavailable"),
        ({"kind": "status", "status": 504}, 504, "timeout"),
    ],
)
def test_a_refusal_has_the_code_that_hcloud_go_decides_by(
    hetzner: Running, fault: dict[str, Any], status: int, code: str
) -> None:
    hetzner.operate("POST", "/faults", {**fault, "method": "POST", "path": "/ssh_keys"})
    answer = hetzner.session.post(
        f"{hetzner.endpoint}/ssh_keys", json={"name": "k", "public_key": KEY}, timeout=10
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/json"
    for name in ("Limit", "Remaining", "Reset"):
        assert answer.headers[f"RateLimit-{name}"].isdecimal()
    assert hetzner.ask("GET", "/ssh_keys")[1]["ssh_keys"] == []
    made(hetzner, "/ssh_keys", name="k", public_key=KEY)


@pytest.mark.parametrize("path", ["/datacenters", "/datacenters?name=nbg1-dc3", "/datacenters/2"])
def test_datacenters_are_gone(hetzner: Running, path: str) -> None:
    status, answer = hetzner.ask("GET", path)
    assert (status, answer["error"]["code"]) == (410, "deprecated_api_endpoint")
    assert answer["error"]["details"]["announcement"].startswith("https://docs.hetzner.cloud/")
    assert hetzner.operate("GET", "/unknown") == {"unknown": []}
