"""No request fails while api is rolled out and rolled back: measured, with real images.

Real here: the api's own Go processes (their drain included), pulled and started by digest; the
rollout (Deployment, ReplicaSet, EndpointSlice controllers and scheduler of a real Kubernetes);
probes, preStop and grace period, as the rehearsal's kubelet keeps them; TLS and HTTP of every
request. Played: Cloudflare's edge and Traefik (with its two seconds between configurations), and
the way from a node to a pod: there is neither kube-proxy nor a pod network.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from bench.hammer import Edge, Hammered, hammering
from rehearsal import serve
from rehearsal.home import Home
from rehearsal.providers.kubernetes.client import Client
from rehearsal.providers.kubernetes.kubeconfig import parse
from rehearsal.registry.service import why_not
from tests.registry.forge import WITHOUT
from tests.rehearsal.operator import Operator
from tests.rehearsal.test_rehearse_images import UP, change, commit_of, listed, pin, service_of

pytestmark = [pytest.mark.cluster, pytest.mark.images]

HOST = "api.honeydue.test"
RATE = 40.0  # requests a second
AROUND = 2.0  # seconds of hammering before and after


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    if os.environ.get(WITHOUT):
        pytest.skip(f"{WITHOUT} is set")
    if reason := why_not():
        pytest.fail(f"{reason}\n  or: {WITHOUT}=1, and nothing about images is tested")
    someone = Operator.in_folder(tmp_path_factory.mktemp("zero"))
    someone.must("--images")
    yield someone
    someone.run("reset")


@pytest.fixture(scope="module")
def edge(operator: Operator) -> Edge:
    return Edge.of(serve.environment(Home(operator.home)))


@pytest.fixture(scope="module")
def first(operator: Operator) -> str:
    """The tag of the first release."""
    return commit_of(operator)


def pods(operator: Operator) -> set[str]:
    """The api's, less those that end."""
    cluster = Client(parse({"kubeconfig": operator.output("kubeconfig")}))
    return {
        str(pod["metadata"]["name"]) for pod in listed(cluster, "pods") if service_of(pod) == "api"
    }


def meanwhile(edge: Edge, work: Callable[[], object]) -> Hammered:
    with hammering(edge, HOST, rate=RATE) as found:
        time.sleep(AROUND)
        work()
        time.sleep(AROUND)
    return found


def nobody_noticed(found: Hammered) -> None:
    assert found.failed == []
    assert found.lost == 0
    assert found.by("status") == {200: found.sent}
    # Both kinds of users were there, and all the time.
    assert min(found.by("kept").values()) > found.sent / 4
    assert found.longest_gap() < 2.0


def test_no_request_fails_while_a_new_api_is_rolled_out(
    operator: Operator, edge: Edge, first: str
) -> None:
    assert first
    old = pods(operator)
    tag = change(
        operator, "api/main.go", 'service.Main("api", run)', 'service.Main("the api", run)'
    )
    found = meanwhile(edge, lambda: operator.must(*UP))
    nobody_noticed(found)
    new = pods(operator)
    assert tag != first
    assert len(new) == 3
    assert not new & old
    assert set(found.by("pod")) == old | new  # each of the six had requests
    versions = [shot.version for shot in sorted(found.shots, key=lambda shot: shot.at)]
    assert all(version.startswith("sha256:") for version in versions)
    assert len({*versions}) == 2
    assert versions[0] != versions[-1]


def test_no_request_fails_while_it_is_rolled_back(
    operator: Operator, edge: Edge, first: str
) -> None:
    old = pods(operator)
    pin(operator, api=first)
    found = meanwhile(edge, lambda: operator.must(*UP))
    nobody_noticed(found)
    assert not pods(operator) & old
    assert len(found.by("version")) == 2


def test_the_hammer_sees_a_request_that_fails(operator: Operator, edge: Edge) -> None:
    """Were it blind, the tests above would pass in vain."""
    stopped = pods(operator)
    cluster = Client(parse({"kubeconfig": operator.output("kubeconfig")}))

    def without_grace() -> None:
        for pod in stopped:
            cluster.request(
                "DELETE",
                f"/api/v1/namespaces/honeydue/pods/{pod}",
                query={"gracePeriodSeconds": "0"},
            )

    found = meanwhile(edge, without_grace)
    assert {shot.status for shot in found.failed} <= {502, 503}
    assert found.failed
    assert found.lost == 0
