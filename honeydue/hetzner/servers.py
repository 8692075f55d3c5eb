"""The managers: three servers that are each the control plane, an etcd member and a worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pulumi
import pulumi_hcloud as hcloud

from honeydue import versions
from honeydue.hetzner.addresses import NodeAddress
from honeydue.hetzner.network import Network
from honeydue.k3s import cloud_init
from honeydue.k3s.gates import Access, health_gate
from honeydue.k3s.pki import Pki
from honeydue.naming import manager_labels
from honeydue.settings import Cluster, Node, Registry, Snapshots


@dataclass(frozen=True, kw_only=True)
class ManagersArgs:
    cluster: Cluster
    labels: dict[str, str]
    network: Network
    firewall_id: pulumi.Input[int]
    addresses: Sequence[NodeAddress]
    pki: Pki
    registry: Registry
    snapshots: Snapshots | None
    ssh_public_key: str
    hcloud_token: pulumi.Input[str]
    protect: bool


class Managers(pulumi.ComponentResource):
    """gate-1 → server-1 → gate-2 → server-2 → …: one at a time, and never the next one before the
    cluster is whole again."""

    access: Access
    """For the readiness gate."""
    server_ids: list[pulumi.Output[str]]

    def __init__(
        self, name: str, args: ManagersArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:hetzner:Managers", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        cluster = args.cluster
        if versions.K3S_SHA256_AMD64 is None:
            pulumi.log.warn(UNPINNED)
        spread = hcloud.PlacementGroup(
            f"{name}-spread",
            name=cluster.name,
            type="spread",  # no two managers on one host
            labels=args.labels,
            opts=child,
        )
        key_name = f"{cluster.name}-operator"
        key = hcloud.SshKey(
            f"{name}-operator",
            name=key_name,
            public_key=args.ssh_public_key,
            labels=args.labels,
            opts=pulumi.ResourceOptions(
                parent=self,
                # Names are unique, which the plugin minds of its older kinds alone: it would make
                # the new key first (pulumi-terraform-bridge issues 823 and 930).
                delete_before_replace=True,
            ),
        )
        self.access = Access(cluster=cluster, addresses=args.addresses, pki=args.pki)
        self.server_ids = []
        previous: hcloud.Server | None = None
        for node, address in zip(cluster.nodes, args.addresses, strict=True):
            gate = health_gate(
                node,
                self.access,
                hcloud_token=args.hcloud_token,
                # When this node is about to be touched, or the one before it was just replaced.
                triggers=[
                    node.generation,
                    node.server_type,
                    *([previous.id] if previous else []),
                ],
                opts=pulumi.ResourceOptions(
                    parent=self, depends_on=[previous] if previous else None
                ),
            )
            previous = hcloud.Server(
                node.name,
                name=node.name,
                server_type=node.server_type,
                keep_disk=True,  # a disk that grew with its type could never be smaller again
                image=versions.NODE_IMAGE,
                location=cluster.location_of(node),
                labels=manager_labels(args.labels, generation=node.generation),
                # Without one Hetzner mails a root password. By name, not by the resource's id: a
                # new key deletes the old one first, and then the engine asks the plugin whether
                # those whose *properties* hang on it must go too, without a word of ignore_changes
                # (step_generator.go, calculateDependentReplacements): all three servers would.
                ssh_keys=[key_name],
                user_data=_user_data(node, address, args),
                firewall_ids=[args.firewall_id],
                placement_group_id=spread.id.apply(int),
                public_nets=[
                    hcloud.ServerPublicNetArgs(
                        ipv4_enabled=True,
                        ipv4=address.ipv4_id,
                        ipv6_enabled=True,
                        ipv6=address.ipv6_id,
                    )
                ],
                networks=[
                    hcloud.ServerNetworkArgs(
                        network_id=args.network.id,
                        ip=str(cluster.private_ip(node)),
                        # Given, although empty: otherwise every `up` wants to change it.
                        alias_ips=[],
                    )
                ],
                # Not Pulumi's `protect`: a raised generation must be able to replace the server.
                # Hetzner's own protection stands instead, so that the API refuses every *other*
                # plan that would; the health gate lifts it for the one whose generation rose.
                # Hetzner wants both equal.
                delete_protection=args.protect,
                rebuild_protection=args.protect,
                # A dead node never shuts down, and etcd and pods must survive a power cut anyway.
                shutdown_before_deletion=False,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    depends_on=[args.network.subnet, key, gate],
                    # Each of these would replace a live node; the next generation takes them up.
                    ignore_changes=[
                        "image",  # a newer NODE_IMAGE is for new servers
                        "location",  # moving is replacing
                        "userData",  # any edit of cloud-init, or a rotated registry token
                        "sshKeys",  # Hetzner uses them at creation only
                    ],
                    replacement_trigger=node.generation,  # the one way to replace a node
                    delete_before_replace=True,  # names and primary IPs are unique
                ),
            )
            self.server_ids.append(previous.id)
        self.register_outputs({"serverIds": self.server_ids})


UNPINNED: Final = (
    "K3s's binary is not pinned: K3S_SHA256_AMD64 in honeydue/versions.py is None, so nodes trust "
    "the release's own list of checksums. Put the first column of this there: "
    f"curl -fsSL {cloud_init.RELEASE}/sha256sum-amd64.txt | grep ' k3s$'"
)


def _user_data(node: Node, address: NodeAddress, args: ManagersArgs) -> pulumi.Output[str]:
    """Secret: it holds the cluster's keys, and Pulumi keeps it in the state.

    Of the public addresses it knows this node's own alone. With all of them, one address that is
    replaced would take every server along: the engine asks the plugin what must go with a resource
    that is deleted first, without a word of ignore_changes (as for the key above).
    """
    pki = args.pki
    known: Mapping[str, pulumi.Input[object]] = {
        "files": dict(pki.files),
        "token": pki.token,
        "password": pki.password,
        "node_password": pki.node_passwords[node.name],
        "ipv4": address.ipv4,
        "ipv6": address.ipv6,
    }

    def render(v: dict[str, object]) -> str:
        return cloud_init.render(_boot(node, args, **v))  # type: ignore[arg-type]  # as in `known`

    return pulumi.Output.secret(pulumi.Output.all(**known).apply(render))


def _boot(
    node: Node,
    args: ManagersArgs,
    *,
    files: Mapping[str, str],
    token: str,
    password: str,
    node_password: str,
    ipv4: str,
    ipv6: str,
) -> cloud_init.NodeBoot:
    cluster = args.cluster
    private = {other.name: cluster.private_ip(other) for other in cluster.nodes}
    return cloud_init.NodeBoot(
        name=node.name,
        founder=node == cluster.founder,
        private_ip=private[node.name],
        public_ipv4=ipv4,
        peers=tuple(ip for name, ip in private.items() if name != node.name),
        # The kubeconfig opens each node by its own public address, managers each other by any
        # private one.
        tls_sans=(*private, ipv4, ipv6, *(str(ip) for ip in private.values())),
        pod_cidr=cluster.pod_cidr,
        service_cidr=cluster.service_cidr,
        tls_files=files,
        token=token,
        supervisor_password=password,
        node_password=node_password,
        registry=cloud_init.Registry(
            server=args.registry.server,
            username=args.registry.username,
            token=args.registry.token.get_secret_value(),
        ),
        snapshots=_s3(args.snapshots) if args.snapshots else None,
    )


def _s3(snapshots: Snapshots) -> cloud_init.S3:
    return cloud_init.S3(
        endpoint=snapshots.endpoint,
        bucket=snapshots.bucket,
        folder=snapshots.folder,
        region=snapshots.region,
        access_key=snapshots.access_key.get_secret_value(),
        secret_key=snapshots.secret_key.get_secret_value(),
        schedule=snapshots.schedule,
        retention=snapshots.retention,
    )
