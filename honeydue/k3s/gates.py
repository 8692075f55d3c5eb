"""The gates as resources: what makes Pulumi wait, and when it asks again (docs/adr/0002)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pulumi
import pulumi_command as command

from honeydue import python
from honeydue.hetzner.addresses import NodeAddress
from honeydue.k3s.kubeconfig import kubeconfig
from honeydue.k3s.pki import Pki
from honeydue.settings import Cluster, Node


def script(gate: Literal["health", "ready"]) -> str:
    return python.script("honeydue.k3s.gate", gate, called="the gate")


@dataclass(frozen=True, kw_only=True)
class Access:
    """What every gate needs to see the cluster from outside."""

    cluster: Cluster
    addresses: Sequence[NodeAddress]
    pki: Pki

    def environment(self) -> dict[str, pulumi.Input[str]]:
        """By environment, never on a command line that `ps` shows."""
        return {
            "HONEYDUE_NODES": pulumi.Output.json_dumps(
                [{"name": node.name, "address": node.ipv4} for node in self.addresses]
            ),
            "HONEYDUE_SERVER_CA": self.pki.server_ca,
            "HONEYDUE_ADMIN_CERTIFICATE": self.pki.admin_certificate,
            "HONEYDUE_ADMIN_KEY": self.pki.admin_key,
            "HONEYDUE_DEADLINE": str(self.cluster.boot_minutes * 60),
        }


def health_gate(
    node: Node,
    access: Access,
    *,
    hcloud_token: pulumi.Input[str],
    triggers: Sequence[pulumi.Input[Any]],
    opts: pulumi.ResourceOptions,
) -> command.local.Command:
    """`<node>-gate`. A changed trigger runs it anew; nothing takes a value from it, so that a run
    never makes anything else unknown. A changed environment (another token) runs it as well, which
    on a healthy cluster costs a second.
    """
    return _command(
        f"{node.name}-gate",
        "health",
        {
            **access.environment(),
            "HONEYDUE_NODE": node.name,
            "HONEYDUE_GENERATION": str(node.generation),
            "HONEYDUE_SERVER_TYPE": node.server_type,
            "HONEYDUE_LOCATION": access.cluster.location_of(node),
            "HONEYDUE_STACK": pulumi.get_stack(),
            "HCLOUD_TOKEN": pulumi.Output.secret(hcloud_token),
        },
        triggers,
        opts,
    )


def _command(
    name: str,
    gate: Literal["health", "ready"],
    environment: Mapping[str, pulumi.Input[str]],
    triggers: Sequence[pulumi.Input[Any]],
    opts: pulumi.ResourceOptions,
) -> command.local.Command:
    return command.local.Command(
        name,
        create=script(gate),
        environment=environment,
        triggers=triggers,
        opts=pulumi.ResourceOptions.merge(
            opts,
            # The gate prints no secret; should it ever, the state must still hold none in clear.
            # Not `environment`, whose secret values stay marked one by one: plugins that compare
            # the old *outputs* with the new inputs take a whole that is secret for a change, in
            # every plan (pulumi-command issue 447, pulumi-go-provider pull request 419).
            pulumi.ResourceOptions(additional_secret_outputs=["stdout", "stderr"]),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class ClusterReadyArgs:
    access: Access
    server_ids: Sequence[pulumi.Input[str]]


class ClusterReady(pulumi.ComponentResource):
    """The readiness gate: who depends on it finds every node Ready and etcd with all its voters.

    The kubeconfig stands beside it and does not come out of it: it must stay known while the gate
    is planned to run again, or every Kubernetes resource would be shown as perhaps different.
    """

    kubeconfig: pulumi.Output[str]
    """Secret; one context per node. Known as soon as PKI and addresses are, which is before the
    first node boots."""
    gate: command.local.Command

    def __init__(
        self, name: str, args: ClusterReadyArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:k3s:ClusterReady", name, None, opts)
        access = args.access
        self.gate = _command(
            f"{name}-ready-gate",
            "ready",
            access.environment(),
            list(args.server_ids),
            pulumi.ResourceOptions(parent=self),
        )
        self.kubeconfig = pulumi.Output.secret(
            pulumi.Output.all(
                servers={node.name: node.ipv4 for node in access.addresses},
                server_ca=access.pki.server_ca,
                admin_certificate=access.pki.admin_certificate,
                admin_key=access.pki.admin_key,
            ).apply(lambda v: kubeconfig(current=access.cluster.api_node_or_first.name, **v))
        )
        self.register_outputs({"kubeconfig": self.kubeconfig})
