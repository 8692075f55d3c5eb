"""Pulls an image as a node does: with the pull secret's own credentials, by digest, all of it.

    pulled = pull(docker_config, "127.0.0.1:3000/admin/honeydue-api@sha256:…")

`docker_config` is what the cluster's Secret of type `kubernetes.io/dockerconfigjson` holds. Nothing
is kept: the bytes are counted and checked against their digests, and the configuration's platform
against the nodes'. So a wrong secret, a lost layer and an image for another machine are found while
the operator watches, and not by a kubelet at night.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from rehearsal.registry.distribution import Reference, Registry, RegistryError

PLATFORM: Final = ("linux", "amd64")  # of the nodes: Hetzner's CX33
SECRET: Final = "gitea-credentials"


class PullError(Exception):
    """Why a node could not run this image: the cause, and the line that mends it."""


@dataclass(frozen=True)
class Pulled:
    """`layers`: the compressed sizes in bytes, the lowest first; `size`: of all that was sent."""

    reference: str
    user: str
    layers: tuple[int, ...]
    size: int


def pull(docker_config: Mapping[str, Any], reference: str) -> Pulled:
    """Fetches and verifies the manifest, its configuration and every layer. Raises PullError."""
    try:
        image = Reference.parse(reference)
    except ValueError as error:
        raise PullError(str(error)) from None
    if not image.digest:
        raise PullError(
            f"{reference} names no digest, so nobody knows what a node would run\n"
            "  mend: pull what the Deployment says: pulumi stack output"
        )
    user, password = credentials(docker_config, image)
    try:
        with Registry(image, user, password) as registry:
            return _pull(registry, image, reference, user)
    except RegistryError as error:
        raise PullError(_explained(error, reference, user)) from None


def _pull(registry: Registry, image: Reference, reference: str, user: str) -> Pulled:
    size = 0
    digest = image.digest
    while True:
        answer = registry.manifest(digest)
        size += len(answer.body)
        if answer.digest != digest:
            raise _wrong(reference, "manifest", digest, answer.digest)
        manifest = _json(answer.body, reference)
        if "manifests" not in manifest:
            break
        digest = _of_our_platform(manifest, reference)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not isinstance(manifest.get("config"), dict):
        raise PullError(f"{reference} is no image: its manifest names no configuration and layers")
    configuration = _json(_blob(registry, manifest["config"], reference, keep=True), reference)
    platform = (configuration.get("os"), configuration.get("architecture"))
    if platform != PLATFORM:
        raise PullError(
            f"{reference} is for {platform[0]}/{platform[1]}, the nodes are {'/'.join(PLATFORM)}: "
            "its programs would not start (exec format error)\n"
            "  mend: build it with --platform linux/amd64"
        )
    for layer in layers:
        _blob(registry, layer, reference, keep=False)
    sizes = tuple(int(layer["size"]) for layer in layers)
    return Pulled(reference, user, sizes, size + int(manifest["config"]["size"]) + sum(sizes))


def _blob(
    registry: Registry, descriptor: Mapping[str, Any], reference: str, *, keep: bool
) -> bytes:
    """Fetched to its end and verified; its bytes only if they are kept."""
    wanted, size, kept = str(descriptor["digest"]), 0, []
    hash_ = hashlib.sha256()
    for piece in registry.blob(wanted):
        hash_.update(piece)
        size += len(piece)
        if keep:
            kept.append(piece)
    got = f"sha256:{hash_.hexdigest()}"
    if got != wanted or size != descriptor.get("size"):
        raise _wrong(reference, f"blob of {size} bytes", wanted, got)
    return b"".join(kept)


def _of_our_platform(index: Mapping[str, Any], reference: str) -> str:
    for child in index["manifests"]:
        platform = child.get("platform") or {}
        if (platform.get("os"), platform.get("architecture")) == PLATFORM:
            return str(child["digest"])
    raise PullError(
        f"{reference} has nothing for {'/'.join(PLATFORM)}\n  mend: build it with --platform "
        "linux/amd64"
    )


def credentials(docker_config: Mapping[str, Any], image: Reference) -> tuple[str, str]:
    """User and password for an image's registry, found as the kubelet finds them: by the host,
    which may have `*` in it, and a path in front of the repository."""
    auths = docker_config.get("auths")
    for key, entry in (auths or {}).items() if isinstance(auths, dict) else ():
        host, _, path = (
            key.partition("://")[2].partition("/") if "://" in key else key.partition("/")
        )
        path = "" if path.rstrip("/") in {"v1", "v2"} else path.rstrip("/")
        if not fnmatchcase(image.server, host) or not f"{image.repository}/".startswith(
            f"{path}/" if path else ""
        ):
            continue
        user, password = entry.get("username"), entry.get("password")
        if not password and entry.get("auth"):
            try:
                user, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
            except ValueError:
                raise PullError(
                    f"the Secret {SECRET}: `auth` of {host} is not base64 of user:token\n"
                    "  mend: pulumi up writes it from honeydue:registry"
                ) from None
        if user and password:
            return str(user), str(password)
    raise PullError(
        f"the Secret {SECRET} has no credentials for {image.server}\n"
        "  mend: honeydue:registry.server must be the host that the images are named by; then "
        "pulumi up"
    )


def _json(body: bytes, reference: str) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise PullError(f"{reference}: what the registry sent is no JSON object")
    return found


def _wrong(reference: str, what: str, wanted: str, got: str) -> PullError:
    return PullError(
        f"{reference}: the registry sent a {what} that is {got}, asked for {wanted}: its store is "
        "damaged, or somebody changed it\n"
        "  mend: push the image again, then deploy"
    )


def _explained(error: RegistryError, reference: str, user: str) -> str:
    if error.refused:
        return (
            f"{reference}: {error}: the pull secret's token of {user!r} is wrong, expired or lacks "
            "read:package, and no node can pull\n"
            "  mend: pulumi config set --secret --path honeydue:registry.token, then pulumi up"
        )
    if error.missing:
        return (
            f"{reference}: {error}: the registry does not have all of it\n"
            "  mend: push the image again (pulumi up), or deploy another tag"
        )
    return f"{reference}: {error}\n  mend: see that the registry runs, then run again"
