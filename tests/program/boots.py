"""Two nodes as cloud-init's tests see them: the founder, and a joiner with snapshots."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from honeydue.k3s.cloud_init import S3, NodeBoot, Registry
from honeydue.k3s.pki import AUTHORITIES

TOKEN: Final = f"K10{'0' * 64}::server:canary-password"
SECRETS: Final = (
    TOKEN,
    "canary-node-password",
    "canary-registry-token",
    "canary-access",
    "canary-secret",
)


def _short(name: str) -> str:
    return f"PEM of {name}\n"


def real_size(name: str) -> str:
    """As long as pulumi-tls makes them: P-256 certificates and keys, the RSA service key."""
    return "x" * {"crt": 700, "key": 230}[name[-3:]] if name != "service.key" else "x" * 1700


def boot(
    number: int, *, snapshots: S3 | None = None, pem: Callable[[str], str] = _short
) -> NodeBoot:
    """`pem`: file name → its content; short and readable unless given."""
    private = {i: IPv4Address(f"10.10.1.{10 + i}") for i in (1, 2, 3)}
    names = [f"{a}.{kind}" for a in AUTHORITIES for kind in ("crt", "key")] + ["service.key"]
    return NodeBoot(
        name=f"honeydue-{number}",
        founder=number == 1,
        private_ip=private[number],
        public_ipv4=f"203.0.113.{number}",
        peers=tuple(ip for i, ip in private.items() if i != number),
        tls_sans=(
            *("honeydue-1", "honeydue-2", "honeydue-3"),
            *(f"203.0.113.{number}", f"2001:db8:{number}::1"),
            *("10.10.1.11", "10.10.1.12", "10.10.1.13"),
        ),
        pod_cidr=IPv4Network("10.42.0.0/16"),
        service_cidr=IPv4Network("10.43.0.0/16"),
        tls_files={name: pem(name) for name in names},
        token=TOKEN,
        supervisor_password="canary-password",
        node_password="canary-node-password",
        registry=Registry(
            server="gitea.treytartt.com", username="admin", token="canary-registry-token"
        ),
        snapshots=snapshots,
    )


SNAPSHOTS: Final = S3(
    endpoint="s3.us-west-004.backblazeb2.com",
    bucket="honeydue-etcd",
    folder="honeydue",
    region="us-west-004",
    access_key="canary-access",
    secret_key="canary-secret",
    schedule="0 */6 * * *",
    retention=28,
)
