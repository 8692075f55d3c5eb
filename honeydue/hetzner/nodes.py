"""Everything that a node is at Hetzner, but its addresses: network, firewall, servers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from honeydue.hetzner.addresses import NodeAddress
from honeydue.hetzner.firewall import Firewall, FirewallArgs
from honeydue.hetzner.network import Network, NetworkArgs
from honeydue.hetzner.servers import Managers, ManagersArgs
from honeydue.k3s.gates import Access
from honeydue.k3s.pki import Pki
from honeydue.settings import Settings


@dataclass(frozen=True, kw_only=True)
class NodesArgs:
    settings: Settings
    addresses: Sequence[NodeAddress]
    pki: Pki
    cidrs: pulumi.Input[Sequence[str]]
    """Cloudflare's own, which alone may speak http(s) to a node."""


class Nodes(pulumi.ComponentResource):
    access: Access
    """How a gate sees the cluster from outside."""
    server_ids: list[pulumi.Output[str]]

    def __init__(
        self, name: str, args: NodesArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:hetzner:Nodes", name, None, opts)
        s, child = args.settings, pulumi.ResourceOptions(parent=self)
        network = Network(
            name, NetworkArgs(cluster=s.cluster, labels=s.labels, protect=s.protect), child
        )
        firewall = Firewall(
            name,
            FirewallArgs(
                name=s.cluster.name,
                operator=s.operator,
                cloudflare_cidrs=args.cidrs,
                labels=s.labels,
            ),
            child,
        )
        managers = Managers(
            name,
            ManagersArgs(
                cluster=s.cluster,
                labels=s.labels,
                network=network,
                firewall_id=firewall.id,
                addresses=args.addresses,
                pki=args.pki,
                registry=s.registry,
                snapshots=s.snapshots,
                ssh_public_key=s.operator.ssh_public_key,
                hcloud_token=pulumi.Output.secret(s.hcloud_token.get_secret_value()),
                protect=s.protect,
            ),
            child,
        )
        self.access, self.server_ids = managers.access, managers.server_ids
        self.register_outputs({"serverIds": self.server_ids})
