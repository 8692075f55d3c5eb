"""The application in the cluster: all that lives in its namespace."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi

from honeydue.cloudflare.zone import OriginPair
from honeydue.images.release import Release
from honeydue.kubernetes.admission import Admission, AdmissionArgs
from honeydue.kubernetes.configuration import Configuration, ConfigurationArgs
from honeydue.kubernetes.ingress import Ingress, IngressArgs
from honeydue.kubernetes.namespace import Namespace, NamespaceArgs
from honeydue.kubernetes.policies import Policies, PoliciesArgs
from honeydue.kubernetes.redis import Redis, RedisArgs
from honeydue.kubernetes.workloads import Workloads, WorkloadsArgs
from honeydue.settings import Settings


@dataclass(frozen=True, kw_only=True)
class ApplicationArgs:
    settings: Settings
    release: Release
    origin: OriginPair | None


class Application(pulumi.ComponentResource):
    """Rules come before pods, Redis and configuration before those who need them."""

    def __init__(
        self, name: str, args: ApplicationArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Application", name, None, opts)
        s, child = args.settings, pulumi.ResourceOptions(parent=self)
        external_redis = s.redis.external_url
        namespace = Namespace(name, NamespaceArgs(), child)
        policies = Policies(
            "policies",
            PoliciesArgs(
                namespace=namespace,
                cluster=s.cluster,
                environment=s.environment,
                external_redis=external_redis,
            ),
            child,
        )
        admission = Admission("admission", AdmissionArgs(registry=s.registry), child)
        redis = Redis(
            "redis",
            RedisArgs(namespace=namespace, external_url=external_redis, after=(admission,)),
            child,
        )
        configuration = Configuration(
            "configuration",
            ConfigurationArgs(
                namespace=namespace,
                environment=s.environment,
                secrets=s.secrets,
                generated=redis.secrets,
                registry=s.registry,
            ),
            child,
        )
        Workloads(
            "workloads",
            WorkloadsArgs(
                namespace=namespace,
                images=args.release.images,
                configuration=configuration,
                after=(policies, redis, *args.release.proven),
            ),
            child,
        )
        Ingress("ingress", IngressArgs(namespace=namespace, dns=s.dns, origin=args.origin), child)
        self.register_outputs({})
