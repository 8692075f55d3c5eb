"""Everything is forbidden; each permission is here, and has a reason."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_network
from typing import Any

import pytest

from honeydue.kubernetes.catalogue import REDIS, WORKLOADS
from honeydue.kubernetes.network_rules import external_ports, vtep_addresses

from .cluster_program import agrees_with_golden, declared, selects, workloads
from .recording import Recorded, Recording

every_workload = pytest.mark.parametrize("workload", workloads().values(), ids=workloads())

POLICY = "kubernetes:networking.k8s.io/v1:NetworkPolicy"
INSIDE = ("10.42.1.7", "10.43.0.1", "10.10.1.11", "169.254.169.254")


def policies(recording: Recording | None = None) -> dict[str, dict[str, Any]]:
    """Name → spec."""
    return {
        p.inputs["metadata"]["name"]: p.inputs["spec"]
        for p in (recording or declared()).all(POLICY)
    }


def of(name: str, direction: str) -> list[dict[str, Any]]:
    """Every rule of that direction for the pods of workload `name`."""
    return [
        rule
        for spec in policies().values()
        if selects(spec["podSelector"], name)
        for rule in spec.get(direction, [])
    ]


def blocks(rules: list[dict[str, Any]], peers: str) -> list[dict[str, Any]]:
    return [p["ipBlock"] for rule in rules for p in rule[peers] if "ipBlock" in p]


def admits(block: dict[str, Any], address: str) -> bool:
    ip = IPv4Address(address)
    inside = ip in IPv4Network(block["cidr"])
    return inside and not any(ip in IPv4Network(e) for e in block.get("except", []))


def test_both_directions_are_denied_to_every_pod_by_default() -> None:
    assert policies()["default-deny"] == {
        "podSelector": {},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_no_rule_is_empty_since_an_empty_one_allows_everything() -> None:
    for name, spec in policies().items():
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                assert rule.get(peers), name
                assert rule.get("ports"), name
                assert direction.capitalize() in spec["policyTypes"]
                for peer in rule[peers]:
                    assert peer.get("podSelector") != {}, name


@every_workload
def test_every_workload_is_reached_only_by_those_who_need_it(workload: Recorded) -> None:
    name = workload.inputs["metadata"]["name"]
    rules = of(name, "ingress")
    ports = {w.name: w.port for w in WORKLOADS} | {REDIS.name: REDIS.port}
    if ports[name] is None:
        assert rules == []
        return
    (rule,) = rules
    assert rule["ports"] == [{"protocol": "TCP", "port": ports[name]}]
    if name == REDIS.name:
        (peer,) = rule["from"]
        callers = {w for w in workloads() if selects(peer["podSelector"], w)}
        assert callers == {"api", "worker"}
        assert "namespaceSelector" not in peer
    else:
        assert all(set(peer) == {"ipBlock"} for peer in rule["from"])


@pytest.mark.parametrize("name", ["api", "admin"])
@pytest.mark.parametrize(
    ("who", "address", "allowed"),
    [
        ("another node's flannel device", "10.42.1.0", True),
        ("the flannel device of a node replaced many times", "10.42.255.0", True),
        ("a node's private address", "10.10.1.12", True),
        ("a pod", "10.42.1.7", False),
        ("a node's pod bridge, as any container's source could be", "10.42.1.1", False),
        ("a service", "10.43.0.10", False),
        ("someone on the internet", "203.0.113.9", False),
    ],
)
def test_traefik_is_let_in_by_the_addresses_it_has_in_the_hosts_network(
    name: str, who: str, address: str, allowed: bool
) -> None:
    reached = any(admits(block, address) for block in blocks(of(name, "ingress"), "from"))
    assert reached is allowed, who


@pytest.mark.parametrize("name", [w.name for w in WORKLOADS])
def test_the_applications_reach_the_internet_but_nothing_inside(name: str) -> None:
    outside = blocks(of(name, "egress"), "to")
    assert any(admits(block, "17.188.143.34") for block in outside), "APNs"
    for address in INSIDE:
        assert not any(admits(block, address) for block in outside), address


def test_redis_reaches_nothing() -> None:
    assert of(REDIS.name, "egress") == []


def test_who_talks_to_redis_is_allowed_at_both_ends() -> None:
    for name in ("api", "worker", "admin"):
        to_redis = [
            rule
            for rule in of(name, "egress")
            for peer in rule["to"]
            if "namespaceSelector" not in peer
            and "podSelector" in peer
            and selects(peer["podSelector"], REDIS.name)
        ]
        assert bool(to_redis) == (name != "admin")


def test_names_are_resolved_by_the_clusters_own_dns_alone() -> None:
    (rule,) = policies()["allow-dns"]["egress"]
    (peer,) = rule["to"]
    assert peer == {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    assert {(p["protocol"], p["port"]) for p in rule["ports"]} == {("UDP", 53), ("TCP", 53)}


def test_an_external_redis_needs_no_rule_inside() -> None:
    assert not any("redis" in name for name in policies(declared(redis=False)))


def test_the_short_policies_are_as_recorded() -> None:
    short = {
        name: spec
        for name, spec in sorted(policies().items())
        if not name.startswith("allow-traefik")
    }
    agrees_with_golden("network-policies.yaml", _sorted(short))


def test_flannel_has_one_address_for_each_share_of_the_pod_cidr() -> None:
    addresses = vtep_addresses(IPv4Network("10.42.0.0/16"))
    assert len(addresses) == 256
    assert addresses[:2] == ["10.42.0.0/32", "10.42.1.0/32"]
    assert all(ip_network(a).num_addresses == 1 for a in addresses)


def test_ports_come_from_the_env_file_and_an_external_redis() -> None:
    environment = {"PORT": "8000", "DB_PORT": "5433", "EMAIL_PORT": "587", "DEBUG_PORT": ""}
    assert external_ports(environment) == (443, 587, 2197, 5433)
    url = "rediss://user:pa%3Ass@redis.vendor.net"
    assert 6380 in external_ports({}, redis_url=f"{url}:6380/0")
    assert 6379 in external_ports({}, redis_url=url)


def test_ports_of_the_env_file_are_open_and_no_others() -> None:
    (rule,) = policies()["allow-external"]["egress"]
    assert [p["port"] for p in rule["ports"]] == [443, 2197, 5432]
    (rule,) = policies(declared(redis=False))["allow-external"]["egress"]
    assert [p["port"] for p in rule["ports"]] == [443, 2197, 5432, 6380]


@every_workload
def test_only_who_has_the_passwords_reaches_database_and_mail(workload: Recorded) -> None:
    name = workload.inputs["metadata"]["name"]
    reached = {
        port["port"]
        for rule in of(name, "egress")
        if any("ipBlock" in peer for peer in rule["to"])
        for port in rule["ports"]
    }
    full = {443, 2197, 5432}
    assert reached == {"api": full, "worker": full, "admin": {443}, "redis": set()}[name]


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
