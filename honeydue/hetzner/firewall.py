"""Who reaches a node's public addresses. Everything that no rule names is dropped by Hetzner.

Traffic between the nodes runs over the private network, which Hetzner's firewall never sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_hcloud as hcloud

from honeydue.settings import Operator

ANYWHERE = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One inbound rule. `port` is None for ICMP, which has none."""

    description: str
    protocol: str
    port: str | None
    sources: tuple[str, ...]


def rules(*, operator: Operator, cloudflare: Sequence[str]) -> list[Rule]:
    """The whole inbound policy, in the order in which Hetzner's console shows it.

    Hetzner counts effective rules (one per source, 500 in all); this makes about fifty.
    """
    found = [
        Rule(description="ping", protocol="icmp", port=None, sources=ANYWHERE),
        Rule(
            description="http from Cloudflare",
            protocol="tcp",
            port="80",
            sources=tuple(cloudflare),
        ),
        Rule(
            description="https from Cloudflare",
            protocol="tcp",
            port="443",
            sources=tuple(cloudflare),
        ),
        Rule(
            description="Kubernetes API from the operator",
            protocol="tcp",
            port="6443",
            sources=tuple(str(cidr) for cidr in operator.api_cidrs),
        ),
    ]
    if operator.ssh_cidrs:  # none given: 22 stays closed
        found.append(
            Rule(
                description="ssh from the operator",
                protocol="tcp",
                port="22",
                sources=tuple(str(cidr) for cidr in operator.ssh_cidrs),
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class FirewallArgs:
    operator: Operator
    cloudflare_cidrs: pulumi.Input[Sequence[str]]
    labels: Mapping[str, str]
    name: str
    """As Hetzner shows it; unique in the project."""


class Firewall(pulumi.ComponentResource):
    """The one firewall of all nodes; servers name it when they are created, not afterwards, so that
    no node is ever on the internet without it."""

    id: pulumi.Output[int]

    def __init__(
        self, name: str, args: FirewallArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:hetzner:Firewall", name, None, opts)
        cidrs = pulumi.Output.from_input(args.cloudflare_cidrs)
        firewall = hcloud.Firewall(
            f"{name}-firewall",
            name=args.name,
            labels=args.labels,
            rules=cidrs.apply(
                lambda found: _inputs(rules(operator=args.operator, cloudflare=found))
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.id = firewall.id.apply(int)
        self.register_outputs({"id": self.id})


def _inputs(found: list[Rule]) -> list[hcloud.FirewallRuleArgs]:
    return [
        hcloud.FirewallRuleArgs(
            direction="in",
            description=rule.description,
            protocol=rule.protocol,
            port=rule.port,
            source_ips=list(rule.sources),
        )
        for rule in found
    ]
