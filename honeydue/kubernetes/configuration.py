"""What the application reads: ConfigMaps and a Secret named by their content (docs/adr/0004)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_kubernetes import core
from pydantic import SecretStr

from honeydue import application
from honeydue.kubernetes.catalogue import PULL_SECRET, WORKLOADS, labels
from honeydue.kubernetes.hashing import content_hash, keyed_hash
from honeydue.kubernetes.namespace import Namespace
from honeydue.settings import Registry


@dataclass(frozen=True, kw_only=True)
class ConfigurationArgs:
    """`environment`, `secrets` and `generated` become the pods' environment, key by key; of the
    first each service gets what it reads (application.ENVIRONMENT), so that no other rolls.

    `generated` are the secrets that the stack makes itself (the password of its Redis).
    """

    namespace: Namespace
    environment: Mapping[str, str]
    secrets: Mapping[str, SecretStr]
    generated: Mapping[str, pulumi.Output[str]]
    registry: Registry


class Configuration(pulumi.ComponentResource):
    """`honeydue-config-<service>-<hash>`, `honeydue-secrets-<hash>` and the pull secret.

    Those named by content are immutable. New content is a new name, made before the Deployments
    that read it roll, and the roll is Kubernetes' own: nobody has to remember `kubectl rollout
    restart`.
    """

    configs: Mapping[str, pulumi.Output[str]]
    """Service → name of its ConfigMap."""
    secrets: pulumi.Output[str]
    """Name of the Secret. Unknown in the very first preview, when its key does not exist yet."""

    def __init__(
        self, name: str, args: ConfigurationArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Configuration", name, None, opts)
        secret_values: dict[str, pulumi.Input[str]] = {
            key: value.get_secret_value() for key, value in args.secrets.items()
        }
        secret_values |= args.generated
        _refuse_doubles(args.environment, args.secrets, args.generated)
        mortal = pulumi.ResourceOptions(
            parent=self,
            # Dies with the namespace; a destroy, or a rebuild, need not reach for it first.
            deleted_with=args.namespace.resource,
        )
        kept = pulumi.ResourceOptions.merge(
            mortal,
            pulumi.ResourceOptions(
                # Earlier revisions' ReplicaSets still name it: `kubectl rollout undo` must find it.
                retain_on_delete=True,
            ),
        )
        self.configs = {
            workload.name: _config_map(
                f"{name}-config-{workload.name}",
                f"honeydue-config-{workload.name}",
                application.environment_of(workload.name, args.environment),
                args.namespace,
                kept,
            )
            for workload in WORKLOADS
        }
        # The key is random and stays in the state, encrypted. Losing it costs one rollout.
        key = random.RandomPassword(
            f"{name}-name-key",
            length=48,
            special=False,
            opts=pulumi.ResourceOptions(parent=self),
        )
        everything: pulumi.Output[dict[str, str]] = pulumi.Output.all(**secret_values)
        plain: pulumi.Output[dict[str, str]] = pulumi.Output.secret(everything)
        digest = pulumi.Output.all(plain, key.result).apply(lambda pair: keyed_hash(*pair))
        secrets = core.v1.Secret(
            f"{name}-secrets",
            metadata={
                # Forty bits of an HMAC say nothing about what was hashed, and a name that is marked
                # secret would hide every Deployment's diff.
                "name": pulumi.Output.unsecret(pulumi.Output.concat("honeydue-secrets-", digest)),
                "namespace": args.namespace.namespace,
                "labels": labels("configuration"),
            },
            immutable=True,
            type="Opaque",
            data=plain.apply(lambda all_: {k: _base64(v) for k, v in all_.items()}),
            opts=kept,
        )
        # Its name is fixed and its content is not: a rotated token must reach the pods of every
        # revision without rolling one of them (the provider has `enable_secret_mutable` for it).
        login = docker_config(
            args.registry.server,
            args.registry.username,
            args.registry.token.get_secret_value(),
        )
        core.v1.Secret(
            f"{name}-pull",
            metadata={
                "name": PULL_SECRET,
                "namespace": args.namespace.namespace,
                "labels": labels("configuration"),
            },
            type="kubernetes.io/dockerconfigjson",
            data={".dockerconfigjson": pulumi.Output.secret(_base64(login))},
            opts=mortal,
        )
        self.secrets = secrets.metadata.apply(lambda made: str(made["name"]))
        self.register_outputs({"configs": self.configs, "secrets": self.secrets})


def _config_map(
    name: str,
    prefix: str,
    data: Mapping[str, str],
    namespace: Namespace,
    opts: pulumi.ResourceOptions,
) -> pulumi.Output[str]:
    made = core.v1.ConfigMap(
        name,
        metadata={
            "name": f"{prefix}-{content_hash(data)}",
            "namespace": namespace.namespace,
            "labels": labels("configuration"),
        },
        immutable=True,
        data=data,
        opts=opts,
    )
    return made.metadata.apply(lambda metadata: str(metadata["name"]))


def docker_config(server: str, username: str, token: str) -> str:
    """The JSON of `~/.docker/config.json` that kubelet reads: one registry, one login."""
    login = {"username": username, "password": token, "auth": _base64(f"{username}:{token}")}
    return json.dumps({"auths": {server: login}}, sort_keys=True)


def _refuse_doubles(*sources: Mapping[str, object]) -> None:
    """One key, one origin; the settings see to it for theirs, this is the last line."""
    keys = [key for source in sources for key in source]
    doubles = sorted({key for key in keys if keys.count(key) > 1})
    if doubles:
        raise pulumi.RunError(
            f"set more than once: {', '.join(doubles)}; each key belongs either in the env file or "
            "among the secrets, and those of Redis in neither: remove the other"
        )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
