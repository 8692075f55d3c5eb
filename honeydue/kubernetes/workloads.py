"""api, worker and admin: a Deployment each, and a Service for those that listen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import apps, core

from honeydue.images.release import Running
from honeydue.kubernetes.catalogue import (
    GATEKEEPER,
    ROLLOUT_SECONDS,
    WORKLOADS,
    deployment,
    service,
)
from honeydue.kubernetes.configuration import Configuration
from honeydue.kubernetes.namespace import Namespace

# The plugin gives up when Kubernetes does (the progress deadline), not before it.
_PATIENCE = f"{ROLLOUT_SECONDS + 120}s"


@dataclass(frozen=True, kw_only=True)
class WorkloadsArgs:
    """`images`: service → what it runs. `after`: what must work before the first pod starts."""

    namespace: Namespace
    images: Mapping[str, Running]
    configuration: Configuration
    after: tuple[pulumi.Resource, ...] = ()


class Workloads(pulumi.ComponentResource):
    """Everything in catalogue.WORKLOADS, waited for until it is rolled out.

    The api is the gatekeeper: the others roll when it is healthy, so a release that does not start
    leaves them as they are."""

    def __init__(
        self, name: str, args: WorkloadsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Workloads", name, None, opts)
        child = pulumi.ResourceOptions(
            parent=self,
            # Dies with the namespace; a destroy, or a rebuild, need not reach for it first.
            deleted_with=args.namespace.resource,
            custom_timeouts=pulumi.CustomTimeouts(create=_PATIENCE, update=_PATIENCE),
        )
        gatekeeper: list[pulumi.Resource] = []
        for workload in WORKLOADS:
            rollout = apps.v1.Deployment(
                f"{name}-{workload.name}",
                **deployment(
                    workload,
                    namespace=args.namespace.namespace,
                    image=args.images[workload.name].reference,
                    tag=args.images[workload.name].tag,
                    config=args.configuration.configs[workload.name],
                    secrets=args.configuration.secrets,
                ),
                opts=pulumi.ResourceOptions.merge(
                    child,
                    # As a whole, since pull secret and PriorityClass are used by name only.
                    pulumi.ResourceOptions(
                        depends_on=[args.namespace, args.configuration, *args.after, *gatekeeper]
                    ),
                ),
            )
            if workload.name == GATEKEEPER:
                gatekeeper = [rollout]
            if workload.port is not None:
                # It waits for endpoints, and so for the Deployment: begun before it, it would hold
                # one of the engine's places meanwhile, and with `--parallel 1` the only one.
                core.v1.Service(
                    f"{name}-{workload.name}-service",
                    **service(workload, namespace=args.namespace.namespace),
                    opts=pulumi.ResourceOptions.merge(
                        child, pulumi.ResourceOptions(depends_on=[rollout])
                    ),
                )
        self.register_outputs({})
