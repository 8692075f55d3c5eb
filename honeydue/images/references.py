"""How images are called: pure functions of the settings."""

from __future__ import annotations

from typing import Final

SERVICES: Final = ("api", "worker", "admin")
CACHE_TAG: Final = "buildcache"  # BuildKit's layer cache, beside the images
TAG_ANNOTATION: Final = "honeydue.com/image-tag"  # of a Deployment: the tag of what it runs


def path_of(namespace: str, service: str) -> str:
    """Below the registry's host: `admin/honeydue-api`."""
    if service not in SERVICES:
        raise ValueError(f"no such service: {service!r} (known: {', '.join(SERVICES)})")
    return f"{namespace}/honeydue-{service}"


def repository(*, server: str, namespace: str, service: str) -> str:
    """`gitea.treytartt.com/admin/honeydue-api`; with `@` and a digest behind it, what runs."""
    return f"{server}/{path_of(namespace, service)}"


def tag_and_digest(pin: str) -> tuple[str, str]:
    """Of what `honeydue:images` names, either may be empty: `237c6b8`, `sha256:…`,
    `237c6b8@sha256:…`."""
    tag, _, digest = pin.rpartition("@") if "@" in pin else (pin, "", "")
    return ("", tag) if tag.startswith("sha256:") else (tag, digest)
