"""Redis: the cache, and the queue between api and worker. In the cluster unless one is configured.

It keeps its data (append-only file, fsync each second) on the disk of the node where it first ran:
K3s' local-path volumes do not move. So when that *node* is lost or replaced, the queue's last tasks
are lost with it. The node's successor drops the claim as it joins (node.sh), and Redis begins anew;
until then the pod is Pending, unless the claim is dropped by hand:

    kubectl -n honeydue delete pvc data-redis-0 && kubectl -n honeydue delete pod redis-0

Everything that must not be lost is in PostgreSQL. Whoever cannot live with this sets an external
URL.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import pulumi
import pulumi_random as random
from pulumi_kubernetes import apps, core
from pydantic import SecretStr

from honeydue.kubernetes.catalogue import REDIS, labels
from honeydue.kubernetes.hashing import content_hash
from honeydue.kubernetes.namespace import Namespace
from honeydue.kubernetes.redis_manifests import redis_conf, redis_service, redis_stateful_set


@dataclass(frozen=True, kw_only=True)
class RedisArgs:
    """`external_url` (rediss://user:password@host:port): that one is used and none is run here.

    `after`: what must be there before its pod is.
    """

    namespace: Namespace
    external_url: SecretStr | None
    after: tuple[pulumi.Resource, ...] = ()


class Redis(pulumi.ComponentResource):
    """The StatefulSet with its configuration and password, or nothing but an external URL."""

    secrets: dict[str, pulumi.Output[str]]
    """What its clients' environment needs: REDIS_URL, password included, and REDIS_PASSWORD."""

    def __init__(
        self, name: str, args: RedisArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("honeydue:kubernetes:Redis", name, None, opts)
        if args.external_url is not None:
            self.secrets = {"REDIS_URL": pulumi.Output.secret(args.external_url.get_secret_value())}
        else:
            self.secrets = self._run(name, args.namespace, args.after)
        self.register_outputs({})

    def _run(
        self, name: str, namespace: Namespace, after: tuple[pulumi.Resource, ...]
    ) -> dict[str, pulumi.Output[str]]:
        password = random.RandomPassword(
            f"{name}-password",
            length=40,
            special=False,  # it stands in a URL and in redis.conf, unquoted
            opts=pulumi.ResourceOptions(parent=self),
        ).result
        child = pulumi.ResourceOptions(
            parent=self,
            # Dies with the namespace; a destroy, or a rebuild, need not reach for it first.
            deleted_with=namespace.resource,
        )
        conf = {"redis.conf": redis_conf()}
        config = core.v1.ConfigMap(
            f"{name}-config",
            metadata={
                "name": f"honeydue-redis-config-{content_hash(conf)}",
                "namespace": namespace.namespace,
                "labels": labels(REDIS.name),
            },
            immutable=True,
            data=conf,
            opts=child,
        )
        # No key needed for this hash: 40 random characters cannot be guessed from ten hex digits.
        digest = password.apply(lambda text: content_hash({"password": text}))
        secret = core.v1.Secret(
            f"{name}-secret",
            metadata={
                "name": pulumi.Output.unsecret(pulumi.Output.concat("honeydue-redis-", digest)),
                "namespace": namespace.namespace,
                "labels": labels(REDIS.name),
            },
            immutable=True,
            type="Opaque",
            data={
                "password": password.apply(_base64),
                "auth.conf": password.apply(lambda text: _base64(f"requirepass {text}\n")),
            },
            opts=child,
        )
        service = core.v1.Service(
            f"{name}-service", **redis_service(namespace=namespace.namespace), opts=child
        )
        apps.v1.StatefulSet(
            f"{name}-server",
            **redis_stateful_set(
                namespace=namespace.namespace,
                config=config.metadata.apply(lambda made: made["name"]),
                secret=secret.metadata.apply(lambda made: made["name"]),
            ),
            opts=pulumi.ResourceOptions.merge(
                child,
                pulumi.ResourceOptions(
                    # The service gives the pod its name in DNS, the namespace has its priority.
                    depends_on=[service, namespace, *after],
                    custom_timeouts=pulumi.CustomTimeouts(create="12m", update="12m"),
                ),
            ),
        )
        url = pulumi.Output.concat("redis://:", password, f"@{REDIS.name}:{REDIS.port}/0")
        return {"REDIS_URL": url, "REDIS_PASSWORD": password}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
