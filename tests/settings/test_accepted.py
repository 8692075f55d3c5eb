"""What a careful operator may well write, and no rule may refuse."""

from __future__ import annotations

import base64
from typing import Any, Final

import pytest

from .sample import GONE, Change, both, config, env, problems


def _ssh(kind: str, *fields: bytes) -> str:
    parts = [len(part).to_bytes(4, "big") + part for part in (kind.encode(), *fields)]
    return f"{kind} {base64.b64encode(b''.join(parts)).decode()} operator@laptop"


def _nodes(count: int) -> list[dict[str, Any]]:
    return [{"name": f"honeydue-{i}"} for i in range(1, count + 1)]


ACCEPTED: Final[dict[str, Change]] = {
    "single IPv6 addresses": config("operator.apiCidrs", ["2a01:4f8:1:2::3/128"]),
    "a provider's whole IPv6 allocation": config("operator.sshCidrs", ["2a01:4f8::/32"]),
    "several operators": config("operator.apiCidrs", ["203.0.113.7/32", "2001:db8:7::/48"]),
    "no ssh at all": config("operator.sshCidrs", []),
    "a key in a security key": config(
        "operator.sshPublicKey", _ssh("sk-ssh-ed25519@openssh.com", b"\x11" * 32, b"ssh:")
    ),
    "an ECDSA key in a security key": config(
        "operator.sshPublicKey",
        _ssh("sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", b"\x04" * 65, b"ssh:"),
    ),
    "an ECDSA key": config(
        "operator.sshPublicKey", _ssh("ecdsa-sha2-nistp384", b"nistp384", b"\x04" * 97)
    ),
    "an RSA key of 4096 bits": config(
        "operator.sshPublicKey", _ssh("ssh-rsa", b"\1\0\1", b"\0\xff" + b"\x11" * 511)
    ),
    "a key without a comment": config(
        "operator.sshPublicKey", _ssh("ssh-ed25519", b"\x11" * 32).rpartition(" ")[0]
    ),
    "five managers": config("cluster.nodes", _nodes(5)),
    "seven managers": config("cluster.nodes", _nodes(7)),
    "managers in three places": config(
        "cluster.nodes",
        [
            {"name": f"honeydue-{i}", "location": place}
            for i, place in enumerate(("nbg1", "fsn1", "hel1"), 1)
        ],
    ),
    "a manager of a dedicated type": config("cluster.nodes.1.serverType", "ccx13"),
    "a raised generation": config("cluster.nodes.1.generation", 4),
    "strict TLS": both(config("dns.ssl", "strict"), config("dns.minTls", "1.3")),
    "a landing page at www": config("dns.landing", "www.myhoneydue.com"),
    "a registry on its own port": config("registry.server", "gitea.treytartt.com:3000"),
    "a registry on this machine": config("registry.server", "127.0.0.1:3000"),
    "digests only": config(
        "images", {name: "sha256:" + "0123456789abcdef" * 4 for name in ("api", "worker", "admin")}
    ),
    "a long commit and a dirty one": config(
        "images", {"api": "6f303dbbaa" * 4, "worker": "237c6b8-dirty", "admin": "1234567"}
    ),
    "Redis in the cluster": config("redis", GONE),
    "Redis at an address": config("redis.externalUrl", "redis://:aB3%40x9-Kq7v@49.12.7.9:6379"),
    "snapshots on the nodes only": config("snapshots", GONE),
    "snapshots at another vendor": both(
        config("snapshots.endpoint", "account.r2.cloudflarestorage.com"),
        config("snapshots.region", "auto"),
        config("snapshots.schedule", "15 1-23/2 * * 1-5"),
        config("snapshots.folder", "prod/etcd"),
    ),
    "no Google push": both(config("secrets.FCM_SERVER_KEY", GONE), env("FCM_PROJECT_ID", GONE)),
    "no uploads": both(
        config("secrets.B2_KEY_ID", GONE),
        config("secrets.B2_APP_KEY", GONE),
        env("B2_BUCKET_NAME", GONE),
        env("B2_ENDPOINT", GONE),
    ),
    "a database at a public address": env("DB_HOST", "49.12.7.8"),
    "a mail service whose user is no address": env("EMAIL_HOST_USER", "apikey"),
    "a mail service on another port": env("EMAIL_PORT", "2525"),
    "a time zone of three parts": env("TIMEZONE", "America/Argentina/Buenos_Aires"),
    "protection as YAML's own false": config("protect", False),
    "a password with every kind of sign": config(
        "secrets.POSTGRES_PASSWORD", "p@ss:w/rd#1 {x} $HOME %41 \\n ü"
    ),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_right_is_not_refused(change: Change) -> None:
    assert problems(change) == []
