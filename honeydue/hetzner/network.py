"""The private network, the placement group and the ssh key: what servers are put into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_hcloud as hcloud

from honeydue.settings import Cluster


@dataclass(frozen=True, kw_only=True)
class NetworkArgs:
    cluster: Cluster
    labels: Mapping[str, str]
    protect: bool


class Network(pulumi.ComponentResource):
    """One network with one subnet, in one network zone (Hetzner: layer 3, IPv4 only, MTU 1450)."""

    id: pulumi.Output[int]
    subnet: hcloud.NetworkSubnet
    """Servers must depend on it: attaching to a network without a subnet is refused."""

    def __init__(
        self, name: str, args: NetworkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:hetzner:Network", name, None, opts)
        network = hcloud.Network(
            f"{name}-network",
            name=args.cluster.name,
            ip_range=str(args.cluster.network_cidr),
            labels=args.labels,
            delete_protection=args.protect,
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,  # deleting it detaches every node at once
            ),
        )
        self.id = network.id.apply(int)
        self.subnet = hcloud.NetworkSubnet(
            f"{name}-subnet",
            network_id=self.id,
            type="cloud",
            network_zone=args.cluster.network_zone,
            ip_range=str(args.cluster.node_cidr),
            opts=pulumi.ResourceOptions(
                parent=self,
                protect=args.protect,  # every change of it is a replacement
            ),
        )
        self.register_outputs({"id": self.id})
