"""The release: what each service runs, built or there already, and proven before it may run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pulumi
import pulumi_command as command

from honeydue import python
from honeydue.images import ignores
from honeydue.images.plan import Build, Pinned, Plan, plan
from honeydue.images.references import SERVICES, repository
from honeydue.settings import Settings, Signing

__all__ = ["Release", "ReleaseArgs", "Running", "plan"]


@dataclass(frozen=True, kw_only=True)
class ReleaseArgs:
    settings: Settings
    plan: Plan


@dataclass(frozen=True, kw_only=True)
class Running:
    """What one service runs."""

    reference: pulumi.Input[str]
    """`<server>/<namespace>/honeydue-api@sha256:…`. The tag is not part of it: another commit with
    the same bytes must not roll a pod."""
    digest: pulumi.Input[str]
    tag: str
    """The tag that the image was pushed under; empty when the settings name a digest alone."""


class Release(pulumi.ComponentResource):
    """Builds (docs/adr/0009), scans and signs what is built, and verifies what will run.

    A release is one: no Deployment rolls before *every* image is proven, so that a push that fails
    for one of three does not leave half of a release running.
    """

    images: Mapping[str, Running]
    proven: Sequence[pulumi.Resource]
    """What a Deployment has to wait for."""

    def __init__(
        self, name: str, args: ReleaseArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:images:Release", name, None, opts)
        self._settings = args.settings
        child = pulumi.ResourceOptions(parent=self)
        images: dict[str, Running] = {}
        proven: list[pulumi.Resource] = []
        if args.plan.build is not None:
            self._built(name, args.plan.build, child, images, proven)
        self._pinned(name, args.plan.pinned, child, images, proven)
        self.images, self.proven = {service: images[service] for service in SERVICES}, proven
        self.register_outputs({"images": self.references, "release": self.names})

    @property
    def names(self) -> dict[str, pulumi.Output[str]]:
        """Service → `237c6b8@sha256:…`, which `honeydue:images` takes as it is: a registry that is
        down need not be asked."""
        return {
            service: pulumi.Output.concat(f"{running.tag}@" if running.tag else "", running.digest)
            for service, running in self.images.items()
        }

    @property
    def references(self) -> dict[str, pulumi.Input[str]]:
        return {service: running.reference for service, running in self.images.items()}

    def _built(
        self,
        name: str,
        plan: Build,
        child: pulumi.ResourceOptions,
        images: dict[str, Running],
        proven: list[pulumi.Resource],
    ) -> None:
        # Their provider looks for Docker, and importing both costs a preview half a second.
        from honeydue.images.build import Builds, BuildsArgs  # noqa: PLC0415

        s = self._settings
        assert s.signing is not None  # the settings see to it
        digests = Builds("images", BuildsArgs(settings=s, plan=plan), child).digests
        for service in digests:
            vouched = self._gate(
                f"{name}-{service}-vouched",
                "vouch",
                service,
                digests[service],
                plan.tag,
                triggers=[s.image.scan.severity, _ignored()],
                more={
                    "HONEYDUE_SCAN_SEVERITY": s.image.scan.severity,
                    "HONEYDUE_SCAN_IGNORE": str(ignores.FILE),
                },
                secrets={
                    "COSIGN_PRIVATE_KEY": _secret(s.signing.private_key),
                    "COSIGN_PASSWORD": _secret(s.signing.password),
                },
                opts=child,
            )
            verified = self._verified(name, service, vouched.stdout, plan.tag, child)
            # What verification printed, not what the build said: nothing else is ever run, also not
            # under `--target`, which leaves out what a resource depends on.
            images[service] = self._running(service, verified.stdout.apply(_digest), plan.tag)
            proven.append(verified)

    def _pinned(
        self,
        name: str,
        pinned: Mapping[str, Pinned],
        child: pulumi.ResourceOptions,
        images: dict[str, Running],
        proven: list[pulumi.Resource],
    ) -> None:
        for service, image in pinned.items():
            printed: pulumi.Input[str] = image.digest
            if self._settings.signing is not None:
                verified = self._verified(name, service, image.digest, image.tag, child)
                printed = verified.stdout.apply(_digest)
                proven.append(verified)
            images[service] = self._running(service, printed, image.tag)
        if pinned and self._settings.signing is None:
            pulumi.log.warn(
                "images run unverified: honeydue:signing.publicKey is not set, so a changed or "
                "foreign image in the registry would not be noticed",
                self,
            )

    def _running(self, service: str, digest: pulumi.Input[str], tag: str) -> Running:
        reference = pulumi.Output.concat(self._image(service), "@", digest)
        return Running(reference=reference, digest=digest, tag=tag)

    def _image(self, service: str) -> str:
        registry = self._settings.registry
        return repository(server=registry.server, namespace=registry.namespace, service=service)

    def _verified(
        self,
        name: str,
        service: str,
        digest: pulumi.Input[str],
        tag: str,
        opts: pulumi.ResourceOptions,
    ) -> command.local.Command:
        return self._gate(
            f"{name}-{service}-verified", "verify", service, digest, tag, triggers=[], opts=opts
        )

    def _gate(
        self,
        name: str,
        verb: Literal["vouch", "verify"],
        service: str,
        digest: pulumi.Input[str],
        tag: str,
        *,
        triggers: Sequence[pulumi.Input[Any]],
        more: Mapping[str, str] | None = None,
        secrets: Mapping[str, pulumi.Output[str]] | None = None,
        opts: pulumi.ResourceOptions,
    ) -> command.local.Command:
        """`python -m honeydue.images.gate <verb>`; prints the digest and nothing else.

        Asked once for each question: another digest, tag, key, registry or threshold is a
        replacement, which takes every value anew. A rotated token is no question: an image that was
        proven stays proven, also when a new vulnerability has become known, or a rollback at night
        could be refused.
        """
        s = self._settings
        assert s.signing is not None
        secret = {"REGISTRY_TOKEN": _secret(s.registry.token), **(secrets or {})}
        return command.local.Command(
            name,
            create=python.script("honeydue.images.gate", verb, called="the images' gate"),
            environment={
                "HONEYDUE_IMAGE": self._image(service),
                "HONEYDUE_DIGEST": digest,
                "HONEYDUE_TAG": tag,
                "HONEYDUE_STACK": s.stack,
                "REGISTRY_USERNAME": s.registry.username,
                "COSIGN_PUBLIC_KEY": s.signing.public_key,
                **(more or {}),
                **secret,
            },
            triggers=[digest, tag, _fingerprint(s.signing), *triggers],
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    ignore_changes=[f"environment.{key}" for key in secret],
                    # An update would run with the ignored, old token, and send it to a new
                    # registry; a replacement runs with the new one.
                    replace_on_changes=["create", "environment"],
                    # The gate prints no secret; should it ever, the state must hold none in clear.
                    # (Why not `environment`: honeydue/k3s/gates.py.)
                    additional_secret_outputs=["stderr"],
                ),
            ),
        )


def _digest(printed: str) -> str:
    return printed.strip()


def _fingerprint(signing: Signing) -> str:
    return hashlib.sha256(signing.public_key.encode()).hexdigest()[:16]


def _ignored() -> str:
    """Changes when the list of ignored vulnerabilities does."""
    file = ignores.FILE
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else ""


def _secret(value: Any) -> pulumi.Output[str]:
    return pulumi.Output.secret("" if value is None else value.get_secret_value())
