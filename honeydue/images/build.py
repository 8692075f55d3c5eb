"""The images as resources: one multi-stage Dockerfile, one target for each service (docs/adr/0009).

Provider docker-build carries its own buildx and holds the registry's credentials in memory; nothing
of a run reaches `~/.docker/config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_docker as docker
import pulumi_docker_build as docker_build

from honeydue.images.plan import Build
from honeydue.images.references import CACHE_TAG, repository
from honeydue.settings import Settings


@dataclass(frozen=True, kw_only=True)
class BuildsArgs:
    settings: Settings
    plan: Build


class Builds(pulumi.ComponentResource):
    """`honeydue-<service>:<commit>` in the registry, for each service that is built."""

    digests: Mapping[str, pulumi.Output[str]]

    def __init__(
        self, name: str, args: BuildsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:images:Builds", name, None, opts)
        s = args.settings
        builder = self._builder(s)
        provider = docker_build.Provider(
            "docker-build",
            opts=pulumi.ResourceOptions(
                parent=self,
                # `host` is DOCKER_HOST, another one in another shell, and the plugin makes its
                # provider anew for any change, and with it every image. The first one stays, and
                # does no harm: where a builder builds stands in buildx's own record of it.
                ignore_changes=["host"],
            ),
        )
        self.digests = {
            service: docker_build.Image(
                f"{name}-{service}",
                _image(s, args.plan, service),
                pulumi.ResourceOptions(
                    parent=self,
                    provider=provider,
                    depends_on=builder,
                    # The plugin deletes the digest from the registry with the resource: the one
                    # that runs, or that a rollback will want. `ops images prune` is what deletes.
                    retain_on_delete=True,
                    # The plugin marks the password itself; should it forget, the state must not.
                    additional_secret_outputs=["registries"],
                ),
            ).digest
            for service in args.plan.epochs
        }
        self.register_outputs({"digests": self.digests})

    def _builder(self, s: Settings) -> list[pulumi.Resource]:
        """The named builder, where Docker is to run it. A remote one is somebody else's."""
        if s.image.driver == "remote":
            return []
        # Asks the Docker daemon as soon as it is declared, also in a preview: hence only here.
        daemon = docker.Provider("docker", opts=pulumi.ResourceOptions(parent=self))
        return [
            docker.BuildxBuilder(
                s.image.builder,
                name=s.image.builder,
                driver="docker-container",
                # Naming the node lets one that exists be taken over (the book makes it by hand, and
                # another laptop has its own); without it buildx refuses an existing name. What it
                # names by itself is in lower case.
                node=f"{s.image.builder.lower()}0",
                bootstrap=True,
                opts=pulumi.ResourceOptions(
                    parent=self,
                    provider=daemon,
                    # It is this machine's, with its cache; other stacks may build with it.
                    retain_on_delete=True,
                ),
            )
        ]


def _image(s: Settings, plan: Build, service: str) -> docker_build.ImageArgs:
    image = repository(server=s.registry.server, namespace=s.registry.namespace, service=service)
    cache = f"{image}:{CACHE_TAG}"
    return docker_build.ImageArgs(
        builder=docker_build.BuilderConfigArgs(name=s.image.builder),
        context=docker_build.BuildContextArgs(location=str(plan.context)),
        target=service,
        # Whatever the workstation is: the nodes are x86_64.
        platforms=[docker_build.Platform.LINUX_AMD64],
        build_args={
            **s.image.build_args,
            "TARGETARCH": "amd64",
            # BuildKit dates the image by it; a build of the same files gives the same digest.
            "SOURCE_DATE_EPOCH": str(plan.epochs[service]),
        },
        tags=[f"{image}:{plan.tag}"],
        # In words of buildx, since the typed export has no rewrite-timestamp (BuildKit 0.13): files
        # that RUN made are dated by SOURCE_DATE_EPOCH too. `type=registry` pushes; `push` would
        # add a second export without it.
        exports=[
            docker_build.ExportArgs(raw="type=registry,oci-mediatypes=true,rewrite-timestamp=true")
        ],
        push=False,
        # The plugin makes no provenance, so that what is pushed is a plain manifest, not an index.
        cache_from=[
            docker_build.CacheFromArgs(registry=docker_build.CacheFromRegistryArgs(ref=cache))
        ],
        cache_to=[
            docker_build.CacheToArgs(
                registry=docker_build.CacheToRegistryArgs(
                    ref=cache,
                    mode=docker_build.CacheMode.MAX,
                    image_manifest=True,
                    oci_media_types=True,
                    ignore_error=True,  # a cache that cannot be kept is no reason to stop
                )
            )
        ],
        registries=[
            docker_build.RegistryArgs(
                address=s.registry.server,
                username=s.registry.username,
                password=pulumi.Output.secret(s.registry.token.get_secret_value()),
            )
        ],
        # A preview that builds takes minutes, and pushes caches.
        build_on_preview=False,
    )
