"""The rehearsal's providers: one per Pulumi package that the program uses."""

from __future__ import annotations

import importlib
from typing import Final

from rehearsal.engine.provider import Properties, Provider, ProviderError

_CLASSES: Final = {
    "hcloud": ("hcloud", "HcloudProvider"),
    "cloudflare": ("cloudflare", "CloudflareProvider"),
    "kubernetes": ("kubernetes", "KubernetesProvider"),
    "tls": ("tls", "TlsProvider"),
    "random": ("random", "RandomProvider"),
    "command": ("command", "CommandProvider"),
    "docker-build": ("docker_build", "DockerBuildProvider"),
    "docker": ("docker", "DockerProvider"),
}
PACKAGES: Final = tuple(_CLASSES)


def load(package: str, inputs: Properties) -> Provider:
    """The provider of a package, configured by the inputs of its provider resource.

    Imports are lazy: a program without Cloudflare needs no Cloudflare client, and a start-up does
    not pay for the Kubernetes client before it is used. Raises ProviderError.
    """
    if package not in _CLASSES:
        raise ProviderError(
            f"the rehearsal has no provider for the package {package!r}; it has "
            f"{', '.join(PACKAGES)}. Add one in rehearsal/providers/, or remove the resource from "
            "the program."
        )
    module, name = _CLASSES[package]
    provider: Provider = getattr(importlib.import_module(f"rehearsal.providers.{module}"), name)(
        inputs
    )
    return provider
