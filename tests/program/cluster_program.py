"""Declares everything that lives in the cluster with sample settings, for the tests beside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pulumi
import pulumi_random as random
import yaml
from pydantic import SecretStr

from honeydue.images.references import SERVICES, repository
from honeydue.images.release import Running
from honeydue.kubernetes.catalogue import NAME
from honeydue.kubernetes.configuration import Configuration, ConfigurationArgs
from honeydue.kubernetes.ingress import Ingress, IngressArgs
from honeydue.kubernetes.namespace import Namespace, NamespaceArgs
from honeydue.kubernetes.policies import Policies, PoliciesArgs
from honeydue.kubernetes.provider import connect, inside
from honeydue.kubernetes.redis import Redis, RedisArgs
from honeydue.kubernetes.traefik import Traefik, TraefikArgs
from honeydue.kubernetes.workloads import Workloads, WorkloadsArgs
from honeydue.settings import Cluster, Dns, Registry

from .recording import Recorded, Recording, record

# Every value that must never be seen in clear; `test_kubernetes_secrets` hunts for them.
CANARIES: Final = {
    "SECRET_KEY": "canary-secret-key-0123456789",
    "POSTGRES_PASSWORD": "canary-postgres-password",
}
TOKEN: Final = "canary-registry-token"
KUBECONFIG: Final = "canary-kubeconfig"
ORIGIN_KEY: Final = "canary-origin-private-key"
EXTERNAL_REDIS: Final = "rediss://default:canary-external-redis@redis.vendor.net:6380"
PASSWORD: Final = "canary-generated-password"
HMAC_KEY: Final = "canary-generated-hmac-key"

ENVIRONMENT: Final = {
    "DEBUG": "false",
    "DB_HOST": "db.vendor.net",
    "DB_PORT": "5432",
    "ALLOWED_HOSTS": "api.myhoneydue.com",
    "NEXT_PUBLIC_API_URL": "https://api.myhoneydue.com",
    "DAILY_DIGEST_HOUR": "3",
}
DNS: Final = Dns(
    zone_id="0123456789abcdef0123456789abcdef",
    zone="myhoneydue.com",
    api="api.myhoneydue.com",
    admin="admin.myhoneydue.com",
    landing="myhoneydue.com",
)


def registry(token: str = TOKEN) -> Registry:
    """The book's registry."""
    return Registry(
        server="gitea.treytartt.com", namespace="admin", username="admin", token=SecretStr(token)
    )


def secret(values: Mapping[str, str]) -> dict[str, SecretStr]:
    """As the settings hold them."""
    return {key: SecretStr(value) for key, value in values.items()}


IMAGES: Final = {
    service: repository(server="gitea.treytartt.com", namespace="admin", service=service)
    + "@sha256:"
    + digit * 64
    for service, digit in zip(SERVICES, "abc", strict=True)
}
TAG: Final = "237c6b8"

KINDS: Final = {
    "kubernetes:apps/v1:Deployment",
    "kubernetes:apps/v1:StatefulSet",
    "kubernetes:apps/v1:DaemonSet",
    "kubernetes:batch/v1:Job",
    "kubernetes:batch/v1:CronJob",
    "kubernetes:core/v1:Pod",
}


def generated(resource: Recorded) -> Mapping[str, Any]:
    """What pulumi-random would make."""
    if resource.type == "random:index/randomPassword:RandomPassword":
        return {"result": HMAC_KEY if "name-key" in resource.name else PASSWORD}
    return {}


@dataclass(frozen=True)
class OriginPair:
    """As honeydue.cloudflare.zone has it; importing that would load all of pulumi-cloudflare."""

    certificate: pulumi.Output[str]
    private_key: pulumi.Output[str]


@cache
def declared(
    *,
    redis: bool = True,
    strict: bool = False,
    secret_key: str = CANARIES["SECRET_KEY"],
    setting: tuple[str, str] = ("DEBUG", "false"),
    token: str = TOKEN,
    tag: str = TAG,
) -> Recording:
    """One run of the program's Kubernetes half; cached, since many tests read the same one."""

    def program() -> None:
        generator = random.Provider("random")
        # Stands for the readiness gate.
        gate = random.RandomId(
            "gate", byte_length=4, opts=pulumi.ResourceOptions(provider=generator)
        )
        provider = connect(
            "kubernetes",
            kubeconfig=KUBECONFIG,
            cluster_identifier="honeydue-test",
            ready=gate,
        )
        opts = inside(provider, generator)
        namespace = Namespace("honeydue", NamespaceArgs(), opts)
        external_redis = None if redis else SecretStr(EXTERNAL_REDIS)
        Traefik("traefik", TraefikArgs(trusted_ips=["173.245.48.0/20", "103.21.244.0/22"]), opts)
        policies = Policies(
            "policies",
            PoliciesArgs(
                namespace=namespace,
                cluster=Cluster(),
                environment=ENVIRONMENT,
                external_redis=external_redis,
            ),
            opts,
        )
        server = Redis(
            "redis",
            RedisArgs(namespace=namespace, external_url=external_redis),
            opts,
        )
        configuration = Configuration(
            "configuration",
            ConfigurationArgs(
                namespace=namespace,
                environment={**ENVIRONMENT, **dict([setting])},
                secrets=secret({**CANARIES, "SECRET_KEY": secret_key}),
                generated=server.secrets,
                registry=registry(token),
            ),
            opts,
        )
        Workloads(
            "workloads",
            WorkloadsArgs(
                namespace=namespace,
                images={
                    k: Running(reference=v, digest=v.partition("@")[2], tag=tag)
                    for k, v in IMAGES.items()
                },
                configuration=configuration,
                after=(policies, server),
            ),
            opts,
        )
        Ingress(
            "ingress",
            IngressArgs(
                namespace=namespace,
                dns=DNS,
                origin=OriginPair(
                    certificate=pulumi.Output.from_input("PEM"),
                    private_key=pulumi.Output.secret(ORIGIN_KEY),
                )
                if strict
                else None,
            ),
            opts,
        )

    return record(program, outputs=generated)


def workloads(recording: Recording | None = None) -> dict[str, Recorded]:
    """Name in the cluster → everything that makes pods, of whatever kind."""
    found = [r for r in (recording or declared()) if r.type in KINDS]
    return {r.inputs["metadata"]["name"]: r for r in sorted(found, key=lambda r: r.name)}


def template(workload: Recorded) -> dict[str, Any]:
    """The pod template (metadata and spec)."""
    return dict(workload.inputs["spec"]["template"])


def pod(workload: Recorded) -> dict[str, Any]:
    """The pod's spec."""
    return dict(template(workload)["spec"])


def containers(workload: Recorded) -> list[dict[str, Any]]:
    """Every container, init containers included."""
    spec = pod(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def selects(selector: Mapping[str, Any], name: str) -> bool:
    """Whether a label selector of this program selects the pods of workload `name`."""
    matches = bool(selector.get("matchLabels", {}).get(NAME, name) == name)
    for expression in selector.get("matchExpressions", []):
        assert (expression["key"], expression["operator"]) == (NAME, "In"), expression
        matches = matches and name in expression["values"]
    return matches


def agrees_with_golden(file: str, value: Any) -> None:
    """Compares with tests/program/golden/<file>; `GOLDEN=write` records it anew, for review."""
    path = Path(__file__).parent / "golden" / file
    text = value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False)
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path} is missing; record it: GOLDEN=write pytest {file}"
    assert text == path.read_text(), f"differs from {path}; if meant, record it: GOLDEN=write"
