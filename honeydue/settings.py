"""The settings of one stack: a typed, frozen object, made from `Pulumi.<stack>.yaml` and its env file.

SKELETON: shapes only. Rules, loading and error reporting are added by the settings' author.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Literal

from pydantic import BaseModel, ConfigDict, SecretStr
from pydantic.alias_generators import to_camel


class _Model(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True
    )


class Operator(_Model):
    """Who may reach the API server (6443) and ssh (22), and the key that every server gets."""

    api_cidrs: tuple[IPv4Network | IPv6Network, ...]
    ssh_cidrs: tuple[IPv4Network | IPv6Network, ...] = ()  # empty: port 22 is closed
    ssh_public_key: str


class Node(_Model):
    """One manager. Its number (`honeydue-2` → 2) gives its private address: host 10 + number."""

    name: str
    generation: int = 1  # raising it is the one way to replace the server
    server_type: str = "cx33"
    location: str | None = None  # None: the cluster's


class Cluster(_Model):
    name: str = "honeydue"
    location: str = "nbg1"
    network_zone: str = "eu-central"
    network_cidr: IPv4Network = IPv4Network("10.10.0.0/16")
    node_cidr: IPv4Network = IPv4Network("10.10.1.0/24")
    pod_cidr: IPv4Network = IPv4Network("10.42.0.0/16")
    service_cidr: IPv4Network = IPv4Network("10.43.0.0/16")
    api_node: str | None = None  # the node that the kubeconfig's current context opens; None: the first
    boot_minutes: int = 15  # how long the readiness gate waits for the nodes
    nodes: tuple[Node, ...] = (Node(name="honeydue-1"), Node(name="honeydue-2"), Node(name="honeydue-3"))

    # Derived (pure): .founder -> Node (the first), .private_ip(node) -> IPv4Address,
    # .api_node_or_first -> Node, .location_of(node) -> str


class Dns(_Model):
    zone_id: str  # 32 hex digits
    zone: str  # myhoneydue.com
    api: str  # api.myhoneydue.com
    admin: str
    landing: str
    ssl: Literal["flexible", "strict"] = "flexible"
    min_tls: Literal["1.0", "1.1", "1.2", "1.3"] = "1.2"


class Registry(_Model):
    server: str  # gitea.treytartt.com
    namespace: str  # admin
    username: str
    token: SecretStr


class Images(_Model):
    """Tag (git short SHA) or digest (`sha256:…`) of each service."""

    api: str
    worker: str
    admin: str


class Redis(_Model):
    """None of it: Redis runs in the cluster. `external_url` (rediss://…): it does not."""

    external_url: SecretStr | None = None


class Snapshots(_Model):
    """etcd snapshots to S3. Absent: to the node's own disk only."""

    endpoint: str  # host without scheme
    bucket: str
    folder: str = "honeydue"
    region: str
    access_key: SecretStr
    secret_key: SecretStr
    schedule: str = "0 */6 * * *"
    retention: int = 28


class Settings(_Model):
    stack: str
    hcloud_token: SecretStr  # exactly 64 characters
    cloudflare_token: SecretStr
    protect: bool = True  # False, then `up`, is the documented first half of `destroy`
    operator: Operator
    cluster: Cluster = Cluster()
    dns: Dns
    registry: Registry
    images: Images
    redis: Redis = Redis()
    snapshots: Snapshots | None = None
    environment: dict[str, str]  # the env file, validated: becomes the ConfigMap
    secrets: dict[str, SecretStr]  # SECRET_KEY, POSTGRES_PASSWORD, …: becomes the Secret


def load() -> Settings:
    """Reads the running stack's configuration; raises pulumi.RunError with every error at once."""
    raise NotImplementedError


_ = IPv4Address
