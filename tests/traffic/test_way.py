"""The final URLs of a whole rehearsed production, asked as its users do. Pods are pretended here;
tests/rehearsal/test_rehearse_images.py has real ones."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from rehearsal import serve
from rehearsal.home import Home
from rehearsal.lose import call
from rehearsal.page import operators
from tests.rehearsal.operator import Operator

pytestmark = pytest.mark.cluster

HOSTS = {"api.honeydue.test": "api", "honeydue.test": "api", "admin.honeydue.test": "admin"}
UP = ("up", "--yes", "--skip-preview")
PATIENCE = 300.0  # seconds; only a machine that stands still needs more than a few


class User:
    """Somebody out there, who knows where the edge is since nobody's DNS does."""

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        self.at = json.loads(operator.must("edge"))

    def ask(self, host: str) -> httpx.Response:
        trusting = ssl.create_default_context(cafile=self.at["ca"])
        with httpx.Client(verify=trusting, trust_env=False, timeout=PATIENCE) as client:
            return client.get(
                f"https://{self.at['address']}/",
                headers={"Host": host},
                extensions={"sni_hostname": host},
            )

    def statuses(self, times: int = 3) -> set[int]:
        """Of several requests, since the edge takes another node each time."""
        return {self.ask("api.honeydue.test").status_code for _ in range(times)}

    def soon(self, met: Callable[[], bool]) -> None:
        limit = time.monotonic() + PATIENCE
        while not met():
            assert time.monotonic() < limit
            time.sleep(0.1)


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    someone = Operator.in_folder(tmp_path_factory.mktemp("way"))
    yield someone
    someone.run("reset")


@pytest.fixture(scope="module")
def user(operator: Operator) -> User:
    operator.must(*UP)
    return User(operator)


def power(endpoint: str, server: str, action: str) -> int:
    """At the vendor, as its console does: poweroff or poweron."""
    headers = {"Authorization": f"Bearer {'x' * 64}"}
    url = f"{endpoint}/servers/{server}/actions/{action}"
    return httpx.post(url, headers=headers, trust_env=False, timeout=PATIENCE).status_code


def powered_on(endpoint: str, server: str) -> bool:
    """False while the vendor is still busy with the server: 423."""
    return power(endpoint, server, "poweron") == 201


def settings(operator: Operator, **dns: Any) -> None:
    operator.edit("honeydue:dns", lambda old: {**old, **dns})


def test_every_final_url_leads_to_a_pod_of_its_service(user: User) -> None:
    for host, service in HOSTS.items():
        user.soon(lambda host=host: user.ask(host).status_code == 200)  # type: ignore[misc]  # bound
        answer = user.ask(host)
        assert answer.status_code == 200, host
        assert answer.headers["X-Rehearsal"] == "pretended"
        assert answer.json()["pod"].startswith(f"{service}-")
        assert answer.json()["image"].startswith("sha256:")
    assert user.ask("www.honeydue.test").status_code == 530


def test_all_pods_of_a_service_get_requests(user: User) -> None:
    user.soon(lambda: len({user.ask("api.honeydue.test").json()["pod"] for _ in range(12)}) == 3)


def test_serve_tells_where_the_edge_is(user: User, operator: Operator) -> None:
    told = serve.environment(Home(operator.home))["HONEYDUE_EDGE"]
    assert told == f"{user.at['address']},{user.at['ca']}"
    # And without a serving process the verb says the same: the place is the home's.
    again = subprocess.run(
        [sys.executable, "-m", "rehearsal", "edge"],
        cwd=operator.checkout, env={**operator.environment, "PATH": os.defpath},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert json.loads(again) == user.at


def test_strict_mode_asks_the_nodes_by_tls_with_the_stack_s_own_certificate(
    user: User, operator: Operator
) -> None:
    settings(operator, ssl="strict")
    operator.must(*UP)
    user.soon(lambda: user.statuses() == {200})
    cloudflare = operators(serve.environment(Home(operator.home))["CLOUDFLARE_BASE_URL"])
    [zone] = call(cloudflare, "GET", "/state")["settings"].values()
    assert zone["ssl"]["value"] == "strict"
    settings(operator, ssl="flexible")
    operator.must(*UP)
    user.soon(lambda: user.statuses() == {200})


def test_a_node_without_power_is_passed_by_and_its_pods_are_missed_till_kubernetes_knows(
    user: User, operator: Operator
) -> None:
    endpoint = serve.environment(Home(operator.home))["HCLOUD_ENDPOINT"]
    servers = sorted(call(operators(endpoint), "GET", "/state")["servers"])
    assert power(endpoint, servers[0], "poweroff") == 201
    # Users come in by the other nodes, whose Traefik still believes in the pods of this one.
    user.soon(lambda: user.statuses(12) == {200, 504})
    for server in servers[1:]:
        assert power(endpoint, server, "poweroff") == 201
    user.soon(lambda: user.statuses() == {521})
    for server in servers:
        user.soon(lambda server=server: powered_on(endpoint, server))  # type: ignore[misc]  # bound
    user.soon(lambda: user.statuses() == {200})
