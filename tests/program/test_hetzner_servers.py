from __future__ import annotations

import json

import pytest
import yaml

from honeydue import versions
from honeydue.hetzner.addresses import host_address

from .production import CANARIES, KEY, production, variant
from .recording import Recorded

NAMES = ("honeydue-1", "honeydue-2", "honeydue-3")


def server(name: str) -> Recorded:
    return production().one("Server", name)


def test_three_servers_come_from_the_settings() -> None:
    assert [s.name for s in production().all("Server")] == list(NAMES)
    for s in production().all("Server"):
        assert s.inputs["name"] == s.name
        assert s.inputs["serverType"] == "cx33"
        assert s.inputs["image"] == "ubuntu-24.04"
        assert s.inputs["location"] == "nbg1"
        assert s.inputs["keepDisk"] is True


def test_a_server_has_a_fixed_private_address_and_says_that_it_has_no_aliases() -> None:
    for number, name in enumerate(NAMES, 1):
        (network,) = server(name).inputs["networks"]
        assert network["ip"] == f"10.10.1.1{number}"
        assert network["aliasIps"] == []
        assert isinstance(network["networkId"], int)


def test_a_server_waits_for_the_subnet() -> None:
    subnet = production().one("NetworkSubnet").urn
    for name in NAMES:
        assert subnet in server(name).depends_on


def test_a_server_uses_its_own_primary_addresses_and_no_other() -> None:
    for name in NAMES:
        (public,) = server(name).inputs["publicNets"]
        assert public["ipv4Enabled"]
        assert public["ipv6Enabled"]
        mine = {production().named(f"{name}-ipv4").urn, production().named(f"{name}-ipv6").urn}
        assert server(name).property_dependencies["publicNets"] == mine


def test_the_firewall_is_there_when_the_server_is_made() -> None:
    firewall = production().one("Firewall", "honeydue-firewall").urn
    for name in NAMES:
        assert firewall in server(name).property_dependencies["firewallIds"]


def test_a_server_has_the_operators_key_so_that_no_password_is_mailed() -> None:
    key = production().one("SshKey")
    assert key.inputs["publicKey"] == KEY
    for name in NAMES:
        assert server(name).inputs["sshKeys"] == [key.inputs["name"]]
        assert key.urn in server(name).depends_on


def test_another_operators_key_takes_no_server_along() -> None:
    # The engine's answer to "what goes with a key that is deleted first?" knows no ignore_changes.
    key = production().one("SshKey").urn
    for r in production():
        for properties, urns in r.property_dependencies.items():
            assert key not in urns, f"{r.name}.{properties}"


def test_another_nodes_address_takes_no_server_along() -> None:
    """As with the key: an address that is replaced (a changed location, with `protect: false`)."""
    addresses = {ip.urn: ip.name for ip in production().all("PrimaryIp")}
    for name in NAMES:
        needed = server(name).property_dependencies
        for key in ("userData", "publicNets"):
            assert {addresses[urn] for urn in needed[key] if urn in addresses} == {
                f"{name}-ipv4",
                f"{name}-ipv6",
            }, key


def test_a_nodes_certificate_is_for_its_own_public_address_and_every_private_one() -> None:
    for number, name in enumerate(NAMES, 1):
        files = yaml.safe_load(server(name).inputs["userData"])["write_files"]
        content = {entry["path"]: entry["content"] for entry in files}
        config = yaml.safe_load(content["/etc/rancher/k3s/config.yaml"])
        assert config["tls-san"] == [
            *NAMES,
            *(f"203.0.113.{number}", f"2001:db8:{number}::1"),
            *("10.10.1.11", "10.10.1.12", "10.10.1.13"),
        ]


def test_a_binary_without_a_checksum_is_told_once_and_not_per_node(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(versions, "K3S_SHA256_AMD64", None)
    variant()
    (told,) = [r for r in caplog.records if "K3S_SHA256_AMD64" in r.getMessage()]
    assert told.levelname == "WARNING"
    assert "honeydue/versions.py" in told.getMessage()
    assert "curl -fsSL https://github.com/k3s-io/k3s/releases/download/v1.34" in told.getMessage()


def test_a_pinned_binary_needs_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(versions, "K3S_SHA256_AMD64", "0" * 64)
    variant()
    assert [r for r in caplog.records if r.levelname == "WARNING"] == []


def test_what_would_replace_a_live_server_is_ignored() -> None:
    for name in NAMES:
        assert set(server(name).ignore_changes) == {"image", "location", "userData", "sshKeys"}


def test_only_a_raised_generation_replaces_a_server() -> None:
    for name in NAMES:
        assert server(name).replacement_trigger == 1
        assert server(name).replace_on_changes == ()
        assert server(name).inputs["labels"]["generation"] == "1"
    raised = variant(generations=(1, 4, 1))
    assert [s.replacement_trigger for s in raised.all("Server")] == [1, 4, 1]
    assert raised.one("Server", "honeydue-2").inputs["labels"]["generation"] == "4"


def test_a_replaced_server_goes_before_its_successor_comes() -> None:
    assert all(s.delete_before_replace for s in production().all("Server"))


def test_what_the_plugin_would_make_anew_beside_its_namesake_is_deleted_first() -> None:
    """Terraform's newer framework: the bridge does not know there that names are unique."""
    framework = [*production().all("SshKey"), *production().all("PrimaryIp")]
    assert len(framework) == 7
    assert all(r.inputs["name"] and r.delete_before_replace for r in framework)


def test_hetzner_protects_servers_and_pulumi_does_not() -> None:
    for s in production().all("Server"):
        assert not s.protect
        assert s.inputs["deleteProtection"] is True
        assert s.inputs["rebuildProtection"] is True


def test_both_protections_protect_what_must_survive_a_server() -> None:
    for s in production().all("PrimaryIp"):
        assert s.protect is True
        assert s.inputs["deleteProtection"] is True
        assert s.inputs["autoDelete"] is False
    assert production().one("hcloud:index/network:Network").protect is True


def test_protect_false_unlocks_everything_for_destroy() -> None:
    unlocked = variant(protect=False)
    for r in unlocked:
        assert not r.protect, r.name
        for key in ("deleteProtection", "rebuildProtection"):
            assert r.inputs.get(key, False) is False, r.name


def test_every_labelled_resource_says_cluster_stack_and_maker() -> None:
    common = {"cluster": "honeydue", "stack": "test", "managed-by": "pulumi"}
    for r in production():
        if r.type.startswith("hcloud:") and not r.type.endswith(":NetworkSubnet"):
            assert common.items() <= r.inputs["labels"].items(), r.name
    for s in production().all("Server"):
        assert s.inputs["labels"]["role"] == "manager"


def test_the_managers_spread_over_hosts() -> None:
    group = production().one("PlacementGroup")
    assert group.inputs["type"] == "spread"
    for name in NAMES:
        assert server(name).property_dependencies["placementGroupId"] == {group.urn}


def test_user_data_is_a_secret() -> None:
    for s in production().all("Server"):
        assert "userData" in s.secrets


def test_only_the_first_node_may_found_the_cluster() -> None:
    founders = [
        s.name for s in production().all("Server") if "cluster-init: true" in s.inputs["userData"]
    ]
    assert founders == ["honeydue-1"]


def test_no_canary_stands_in_a_plain_input() -> None:
    for r in production():
        plain = {k: v for k, v in r.inputs.items() if not any(s.startswith(k) for s in r.secrets)}
        for canary in CANARIES:
            assert canary not in json.dumps(plain), f"{r.name} shows {canary}"


def test_everything_has_an_explicit_provider() -> None:
    for r in production():
        if r.custom and not r.type.startswith("pulumi:providers:"):
            assert r.provider, r.name


@pytest.mark.parametrize(
    ("primary", "host"),
    [
        ("2001:db8:1:2::", "2001:db8:1:2::1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::1"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::1"),
    ],
)
def test_a_node_uses_the_first_address_of_its_ipv6_network(primary: str, host: str) -> None:
    assert host_address(primary) == host
