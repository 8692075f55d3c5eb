"""The rehearsal's providers: one per Pulumi package that the program uses."""

from __future__ import annotations

from rehearsal.engine.provider import Properties, Provider, ProviderError

PACKAGES = ("hcloud", "cloudflare", "kubernetes", "tls", "random", "command")


def load(package: str, inputs: Properties) -> Provider:
    """The provider of a package, configured by the inputs of its provider resource.

    Imports are lazy: a program without Cloudflare needs no Cloudflare client, and a start-up does
    not pay for the Kubernetes client before it is used. Raises ProviderError.
    """
    match package:
        case "hcloud":
            from rehearsal.providers.hcloud import HcloudProvider  # noqa: PLC0415 - lazy, see above

            return HcloudProvider(inputs)
        case "cloudflare":
            from rehearsal.providers.cloudflare import CloudflareProvider  # noqa: PLC0415

            return CloudflareProvider(inputs)
        case "kubernetes":
            from rehearsal.providers.kubernetes import KubernetesProvider  # noqa: PLC0415

            return KubernetesProvider(inputs)
        case "tls":
            from rehearsal.providers.tls import TlsProvider  # noqa: PLC0415

            return TlsProvider(inputs)
        case "random":
            from rehearsal.providers.random import RandomProvider  # noqa: PLC0415

            return RandomProvider(inputs)
        case "command":
            from rehearsal.providers.command import CommandProvider  # noqa: PLC0415

            return CommandProvider(inputs)
    raise ProviderError(
        f"the rehearsal has no provider for the package {package!r}; it has {', '.join(PACKAGES)}. "
        "Add one in rehearsal/providers/, or remove the resource from the program."
    )
