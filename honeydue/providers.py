"""Every provider that talks to something, made explicitly.

`Pulumi.yaml` switches default providers off: a forgotten one is an error and never a login with
whatever the laptop happens to hold. Endpoints are not settings: the vendors' own environment
variables (HCLOUD_ENDPOINT, CLOUDFLARE_BASE_URL) point the same program at other servers.
The Kubernetes provider is made later, behind the readiness gate (`honeydue.kubernetes.provider`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_command as command
import pulumi_hcloud as hcloud
import pulumi_random as random
import pulumi_tls as tls
from pydantic import SecretStr

from honeydue.cloudflare import vendor as cloudflare


@dataclass(frozen=True, kw_only=True)
class Providers:
    """The vendors', and the three that run on the operator's machine (docs/adr/0005)."""

    hetzner: hcloud.Provider
    cloudflare: cloudflare.Provider
    tls: tls.Provider
    random: random.Provider
    command: command.Provider

    @property
    def all(self) -> list[pulumi.ProviderResource]:
        """For `ResourceOptions(providers=…)` of a component: each child takes its package's."""
        return [self.hetzner, self.cloudflare, self.tls, self.random, self.command]


def connect(*, hcloud_token: SecretStr, cloudflare_token: SecretStr) -> Providers:
    """Tokens become secret outputs, so that the state holds them encrypted only."""
    return Providers(
        hetzner=hcloud.Provider("hcloud", token=_secret(hcloud_token)),
        cloudflare=cloudflare.Provider("cloudflare", api_token=_secret(cloudflare_token)),
        tls=tls.Provider("tls"),
        random=random.Provider("random"),
        command=command.Provider("command"),
    )


def _secret(value: SecretStr) -> pulumi.Output[str]:
    return pulumi.Output.secret(value.get_secret_value())
