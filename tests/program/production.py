"""Declares everything outside of the cluster with sample settings, for the tests beside."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from ipaddress import IPv4Network
from typing import Any, Final, Literal

import pulumi
from pydantic import SecretStr

from honeydue import naming, providers
from honeydue.cloudflare.dns import Dns, DnsArgs
from honeydue.cloudflare.ranges import PINNED, ranges
from honeydue.cloudflare.zone import Zone, ZoneArgs
from honeydue.hetzner.addresses import Addresses, AddressesArgs
from honeydue.hetzner.firewall import Firewall, FirewallArgs
from honeydue.hetzner.network import Network, NetworkArgs
from honeydue.hetzner.servers import Managers, ManagersArgs
from honeydue.k3s.gates import ClusterReady, ClusterReadyArgs
from honeydue.k3s.pki import Pki, PkiArgs
from honeydue.settings import Cluster, Node, Operator, Registry

from .recording import Properties, Recorded, Recording, record

HCLOUD_TOKEN: Final = "canary-hcloud-token".ljust(64, "x")
CLOUDFLARE_TOKEN: Final = "canary-cloudflare-token".ljust(40, "x")
REGISTRY_TOKEN: Final = "canary-registry-token"
CANARIES: Final = (
    HCLOUD_TOKEN,
    CLOUDFLARE_TOKEN,
    REGISTRY_TOKEN,
    "canary-private-key",
    "canary-password",
)
HOSTS: Final = ("api.myhoneydue.com", "admin.myhoneydue.com", "myhoneydue.com")
ZONE_ID: Final = "0123456789abcdef0123456789abcdef"
KEY: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f operator"
)


def vendor(resource: Recorded) -> Mapping[str, Any]:
    """What the vendors would make of it."""
    kind = resource.type.rpartition(":")[2]
    number = (
        int(resource.name.split("-")[1])
        if resource.name.startswith("honeydue-") and (resource.name.split("-")[1].isdigit())
        else 0
    )
    made: dict[str, Mapping[str, Any]] = {
        "PrimaryIp": {
            "ipAddress": f"203.0.113.{number}"
            if resource.inputs.get("type") == "ipv4"
            else f"2001:db8:{number}::"
        },
        "PrivateKey": {"privateKeyPem": f"canary-private-key {resource.name}\n"},
        "SelfSignedCert": {"certPem": f"certificate {resource.name}\n"},
        "LocallySignedCert": {"certPem": f"certificate {resource.name}\n"},
        "CertRequest": {"certRequestPem": "request\n"},
        "OriginCaCertificate": {"certificate": "origin certificate\n"},
        "RandomPassword": {"result": f"canary-password-{resource.name}"},
    }
    return made.get(kind, {})


def cloudflare_says(token: str, _: Properties) -> Mapping[str, Any]:
    assert token == "cloudflare:index/getIpRanges:getIpRanges", token
    return {
        "ipv4Cidrs": [cidr for cidr in reversed(PINNED) if ":" not in cidr],
        "ipv6Cidrs": [cidr for cidr in PINNED if ":" in cidr],
    }


def declare(
    *,
    protect: bool = True,
    ssl: Literal["flexible", "strict"] = "flexible",
    generations: tuple[int, ...] = (1, 1, 1),
    api_node: str | None = None,
) -> None:
    cluster = Cluster(
        nodes=tuple(
            Node(name=f"honeydue-{i}", generation=generation)
            for i, generation in enumerate(generations, 1)
        ),
        api_node=api_node,
    )
    labels = naming.labels(cluster="honeydue", stack="test")
    connected = providers.connect(
        hcloud_token=SecretStr(HCLOUD_TOKEN), cloudflare_token=SecretStr(CLOUDFLARE_TOKEN)
    )
    operator = Operator(api_cidrs=(IPv4Network("198.51.100.7/32"),), ssh_public_key=KEY)
    opts = pulumi.ResourceOptions(providers=connected.all)
    trusted = ranges(connected.cloudflare)
    network = Network(
        "honeydue", NetworkArgs(cluster=cluster, labels=labels, protect=protect), opts
    )
    firewall = Firewall(
        "honeydue",
        FirewallArgs(operator=operator, cloudflare_cidrs=trusted, labels=labels, name="honeydue"),
        opts,
    )
    addresses = Addresses(
        "honeydue", AddressesArgs(cluster=cluster, labels=labels, protect=protect), opts
    )
    pki = Pki(
        "honeydue", PkiArgs(nodes=[node.name for node in cluster.nodes], protect=protect), opts
    )
    managers = Managers(
        "honeydue",
        ManagersArgs(
            cluster=cluster,
            labels=labels,
            network=network,
            firewall_id=firewall.id,
            addresses=addresses.nodes,
            pki=pki,
            registry=Registry(
                server="gitea.treytartt.com",
                namespace="admin",
                username="admin",
                token=SecretStr(REGISTRY_TOKEN),
            ),
            snapshots=None,
            ssh_public_key=KEY,
            hcloud_token=HCLOUD_TOKEN,
            protect=protect,
        ),
        opts,
    )
    Dns("dns", DnsArgs(zone_id=ZONE_ID, hosts=HOSTS, addresses=addresses.nodes, stack="test"), opts)
    zone = Zone(
        "zone",
        ZoneArgs(zone_id=ZONE_ID, hosts=HOSTS, ssl=ssl, min_tls="1.2", protect=protect),
        opts,
    )
    ready = ClusterReady(
        "cluster",
        ClusterReadyArgs(access=managers.access, server_ids=managers.server_ids),
        opts,
    )
    pulumi.export("kubeconfig", ready.kubeconfig)
    if zone.origin:
        pulumi.export("origin", zone.origin.certificate)


@cache
def production() -> Recording:
    """The default production, recorded once for all tests that only read it."""
    return record(declare, outputs=vendor, call=cloudflare_says)


def variant(**options: Any) -> Recording:
    return record(lambda: declare(**options), outputs=vendor, call=cloudflare_says)
