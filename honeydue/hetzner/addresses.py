"""One public IPv4 and IPv6 address per node, as resources of their own.

They outlive the servers: DNS records, firewall lists of third parties, certificates and the
kubeconfig stay right when a node, or every node, is lost. That is also why DNS waits for these and
not for servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address

import pulumi
import pulumi_hcloud as hcloud

from honeydue.settings import Cluster


@dataclass(frozen=True, kw_only=True)
class NodeAddress:
    """One node's public addresses, as text, and Hetzner's ids of them."""

    name: str
    ipv4: pulumi.Output[str]
    ipv6: pulumi.Output[str]
    ipv4_id: pulumi.Output[int]
    ipv6_id: pulumi.Output[int]


@dataclass(frozen=True, kw_only=True)
class AddressesArgs:
    cluster: Cluster
    labels: Mapping[str, str]
    protect: bool


class Addresses(pulumi.ComponentResource):
    nodes: tuple[NodeAddress, ...]
    """In the order of the settings."""

    def __init__(
        self, name: str, args: AddressesArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:hetzner:Addresses", name, None, opts)

        def primary(node: str, family: str, location: str) -> hcloud.PrimaryIp:
            return hcloud.PrimaryIp(
                f"{node}-{family}",
                name=f"{node}-{family}",
                type=family,
                location=location,
                auto_delete=False,  # deleting a server must not take its address along
                delete_protection=args.protect,
                labels=args.labels,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    protect=args.protect,  # a lost address is never given back
                    # Names are unique, which the plugin minds of its older kinds alone.
                    delete_before_replace=True,
                ),
            )

        found = []
        for node in args.cluster.nodes:
            location = args.cluster.location_of(node)
            v4 = primary(node.name, "ipv4", location)
            v6 = primary(node.name, "ipv6", location)
            found.append(
                NodeAddress(
                    name=node.name,
                    ipv4=v4.ip_address,
                    ipv6=v6.ip_address.apply(host_address),
                    ipv4_id=v4.id.apply(int),
                    ipv6_id=v6.id.apply(int),
                )
            )
        self.nodes = tuple(found)
        self.register_outputs(
            {"nodes": {n.name: {"ipv4": n.ipv4, "ipv6": n.ipv6} for n in self.nodes}}
        )


def host_address(primary_ipv6: str) -> str:
    """The address that a server uses of its /64: the first one.

    Hetzner's primary IPv6 is the network (`2001:db8:1:2::`); its images configure `…::1`.
    """
    address = IPv6Address(primary_ipv6.partition("/")[0])
    return str(address + 1 if int(address) % 2**64 == 0 else address)
