"""K3s' packaged Traefik, changed into one that answers on every node's own 80 and 443."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource

from honeydue.kubernetes.traefik_values import values_content


@dataclass(frozen=True, kw_only=True)
class TraefikArgs:
    """`trusted_ips`: Cloudflare's ranges (CIDRs); only they are believed about the client."""

    trusted_ips: pulumi.Input[Sequence[str]]


class Traefik(pulumi.ComponentResource):
    """The HelmChartConfig that K3s merges into its own HelmChart of the same name.

    Pulumi does not wait for it: the helm-controller starts a job, and the job a rollout, one node
    after the other. K3s registers the kind itself while it starts; should that be later than the
    readiness gate, the plugin tries again for a while.
    """

    config: CustomResource

    def __init__(
        self, name: str, args: TraefikArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Traefik", name, None, opts)
        values = pulumi.Output.from_input(args.trusted_ips).apply(
            lambda ranges: values_content(trusted_ips=ranges)
        )
        self.config = CustomResource(
            name,
            api_version="helm.cattle.io/v1",
            kind="HelmChartConfig",
            # Both names are K3s' own: any other would configure nothing.
            metadata={"name": "traefik", "namespace": "kube-system"},
            spec={"valuesContent": values},
            opts=pulumi.ResourceOptions(parent=self),
        )
        self.register_outputs({})
