"""Production must fit on two of its three nodes, in the middle of a rollout."""

from __future__ import annotations

import re

import pytest

from honeydue.kubernetes.capacity import ADD_ONS, NODE, PER_NODE, Need, fits, pods
from honeydue.kubernetes.catalogue import REDIS, WORKLOADS
from honeydue.kubernetes.redis_manifests import redis_conf
from honeydue.kubernetes.traefik_values import traefik_values

from .cluster_program import containers, workloads
from .recording import Recorded

every_workload = pytest.mark.parametrize("workload", workloads().values(), ids=workloads())


def mib(quantity: str) -> int:
    """`512Mi` → 512."""
    found = re.fullmatch(r"(\d+)(Mi|Gi)", quantity)
    assert found, quantity
    return int(found[1]) * (1024 if found[2] == "Gi" else 1)


def millis(quantity: str) -> int:
    """`250m` → 250."""
    found = re.fullmatch(r"(\d+)m", quantity)
    assert found, quantity
    return int(found[1])


@every_workload
def test_memory_request_is_memory_limit_and_cpu_is_requested_but_not_limited(
    workload: Recorded,
) -> None:
    for container in containers(workload):
        resources = container["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert millis(resources["requests"]["cpu"]) > 0
        assert "cpu" not in resources["limits"]


@every_workload
def test_the_arithmetic_counts_what_the_manifest_asks_for(workload: Recorded) -> None:
    name = workload.inputs["metadata"]["name"]
    counted = [need for need in pods(rollout=False) if need.owner == name]
    assert len(counted) == workload.inputs["spec"]["replicas"]
    requests = [c["resources"]["requests"] for c in containers(workload)]
    assert counted[0].memory_mib == sum(mib(r["memory"]) for r in requests)
    assert counted[0].cpu_millis == sum(millis(r["cpu"]) for r in requests)


def test_the_arithmetic_counts_the_surge_of_every_rollout() -> None:
    extra = len(pods(rollout=True)) - len(pods(rollout=False))
    assert extra == sum(1 for w in WORKLOADS if not w.singleton)


def test_the_arithmetic_knows_what_traefik_asks_for_on_every_node() -> None:
    asked = traefik_values(trusted_ips=[])["resources"]["requests"]
    (traefik,) = [need for need in PER_NODE if need.owner == "traefik"]
    assert (traefik.cpu_millis, traefik.memory_mib) == (millis(asked["cpu"]), mib(asked["memory"]))


def test_everything_fits_on_two_of_three_nodes_during_a_rollout() -> None:
    assert fits([*pods(rollout=True), *ADD_ONS], nodes=2)


def test_and_leaves_a_quarter_of_both_nodes_free_for_what_was_not_foreseen() -> None:
    needs = [*pods(rollout=True), *ADD_ONS, *PER_NODE, *PER_NODE]
    assert sum(n.memory_mib for n in needs) <= 0.75 * 2 * NODE.memory_mib
    assert sum(n.cpu_millis for n in needs) <= 0.75 * 2 * NODE.cpu_millis


def test_the_arithmetic_refuses_what_does_not_fit() -> None:
    big = Need(owner="big", cpu_millis=1, memory_mib=NODE.memory_mib)
    assert not fits([big], nodes=2), "the system's own share is not free"
    half = Need(owner="half", cpu_millis=2000, memory_mib=100)
    assert fits([half, half], nodes=2)
    assert not fits([half, half, half], nodes=2)


def test_redis_has_room_to_rewrite_its_file() -> None:
    assert f"maxmemory {REDIS.data_mib}mb" in redis_conf()
    assert REDIS.data_mib * 1.5 <= REDIS.memory_mib
