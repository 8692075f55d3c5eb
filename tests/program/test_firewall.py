from __future__ import annotations

from ipaddress import IPv4Network, ip_network

import pytest

from honeydue.cloudflare.ranges import PINNED
from honeydue.hetzner.firewall import Rule, rules
from honeydue.settings import Operator

from .production import KEY, production

HOME = IPv4Network("198.51.100.7/32")
OFFICE = IPv4Network("192.0.2.0/28")


def made(*, ssh: tuple[IPv4Network, ...] = ()) -> dict[str | None, Rule]:
    operator = Operator(api_cidrs=(HOME,), ssh_cidrs=ssh, ssh_public_key=KEY)
    return {rule.port: rule for rule in rules(operator=operator, cloudflare=PINNED)}


@pytest.mark.parametrize("port", ["80", "443"])
def test_the_web_is_reached_through_cloudflare_only(port: str) -> None:
    assert made()[port].sources == PINNED


def test_the_api_server_is_reached_by_the_operator_only() -> None:
    assert made()["6443"].sources == ("198.51.100.7/32",)


def test_ssh_is_closed_when_no_network_is_given() -> None:
    assert "22" not in made()


def test_ssh_is_open_for_the_given_networks_only() -> None:
    assert made(ssh=(HOME, OFFICE))["22"].sources == ("198.51.100.7/32", "192.0.2.0/28")


def test_only_ping_is_open_to_everybody() -> None:
    for rule in made(ssh=(HOME,)).values():
        whole = [s for s in rule.sources if ip_network(s).prefixlen == 0]
        assert bool(whole) == (rule.protocol == "icmp"), rule


def test_nothing_else_is_open() -> None:
    assert set(made(ssh=(HOME,))) == {None, "80", "443", "6443", "22"}


def test_the_rules_fit_hetzners_limit_of_500_effective_ones() -> None:
    assert sum(len(rule.sources) for rule in made(ssh=(HOME, OFFICE)).values()) < 100


def test_the_declared_firewall_has_exactly_these_rules_all_inbound() -> None:
    declared = production().one("Firewall", "honeydue-firewall").inputs["rules"]
    assert {rule["direction"] for rule in declared} == {"in"}
    assert [rule.get("port") for rule in declared] == [None, "80", "443", "6443"]
    assert set(declared[1]["sourceIps"]) == set(PINNED)


def test_the_network_holds_the_nodes_subnet_in_the_configured_zone() -> None:
    network = production().one("hcloud:index/network:Network")
    subnet = production().one("NetworkSubnet")
    assert network.inputs["ipRange"] == "10.10.0.0/16"
    assert subnet.inputs["ipRange"] == "10.10.1.0/24"
    assert subnet.inputs["networkZone"] == "eu-central"
    assert subnet.inputs["type"] == "cloud"
    assert subnet.property_dependencies["networkId"] == {network.urn}
