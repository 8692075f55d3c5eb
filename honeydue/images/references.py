"""Which image each service runs: a pure function of the settings.

Building, pushing and looking up digests is a later issue, and its component will live in this
module: it will hand `reference` a digest where the settings hand it a tag today, and nothing else
in the program will notice.
"""

from __future__ import annotations

from typing import Final

from honeydue.settings import Images, Registry

SERVICES: Final = ("api", "worker", "admin")


def reference(*, server: str, namespace: str, service: str, version: str) -> str:
    """`gitea.treytartt.com/admin/honeydue-api:237c6b8`, or `…@sha256:…` when `version` is a digest.

    The settings refuse `latest` and malformed tags; what still gets here with neither a tag nor a
    known service is a bug in the program, hence ValueError.
    """
    if service not in SERVICES:
        raise ValueError(f"no such service: {service!r} (known: {', '.join(SERVICES)})")
    if not version or version == "latest":
        raise ValueError(
            f"images.{service}: an image needs a commit's tag or a digest, not {version!r}"
        )
    separator = "@" if version.startswith("sha256:") else ":"
    return f"{server}/{namespace}/honeydue-{service}{separator}{version}"


def references(registry: Registry, images: Images) -> dict[str, str]:
    """Service → full reference, for all of them."""
    return {
        service: reference(
            server=registry.server,
            namespace=registry.namespace,
            service=service,
            version=getattr(images, service),
        )
        for service in SERVICES
    }
