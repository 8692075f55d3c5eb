"""A stack that is right in every respect, for tests that make one thing wrong.

Also for other tests that need settings: `settings()`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

from honeydue.problems import Problem, SettingsError
from honeydue.settings import Settings, parse

# The private number is 32 bytes of 0x11: a key that opens nothing.
APNS_KEY: Final = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgERERERERERERERER
ERERERERERERERERERERERERERGhRANCAAQCF+YX8LZEOSgnj5aZnmmiOk8sFSvf
bWzfZuW4AoLU7RlKfevLl3EtLdo8qFqodlpW9F/HWFmWUvKJfGUwbleU
-----END PRIVATE KEY-----
"""
PUBLIC_KEY: Final = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEFz8BYhfmF/C2RDkoJ4+WmZ5pojpP
LBUr321s32bluAKC1O0ZSn3ry5dxLS3aPKhaqHZaVvRfx1hZllLyiXxlMA==
-----END PUBLIC KEY-----
"""

SSH_KEY: Final = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBERERERERERERERERERERERERERERERERERERERERER sample"
)

CONFIG: Final[dict[str, Any]] = {
    "hcloudToken": "SampleHcloudToken".ljust(64, "0"),
    "cloudflareToken": "sample-cloudflare-token".ljust(40, "0"),
    "protect": "true",
    "operator": {
        "apiCidrs": ["203.0.113.7/32"],
        "sshCidrs": ["2001:db8:0:1::/64"],
        "sshPublicKey": SSH_KEY,
    },
    "cluster": {
        "name": "honeydue",
        "location": "nbg1",
        "networkZone": "eu-central",
        "networkCidr": "10.10.0.0/16",
        "nodeCidr": "10.10.1.0/24",
        "podCidr": "10.42.0.0/16",
        "serviceCidr": "10.43.0.0/16",
        "apiNode": "honeydue-2",
        "bootMinutes": 15,
        "nodes": [{"name": "honeydue-1"}, {"name": "honeydue-2"}, {"name": "honeydue-3"}],
    },
    "dns": {
        "zoneId": "0123456789abcdef0123456789abcdef",
        "zone": "myhoneydue.com",
        "api": "api.myhoneydue.com",
        "admin": "admin.myhoneydue.com",
        "landing": "myhoneydue.com",
        "ssl": "flexible",
        "minTls": "1.2",
    },
    "registry": {
        "server": "gitea.treytartt.com",
        "namespace": "admin",
        "username": "admin",
        "token": "sample-registry-token",
    },
    # By digest, so that no registry is asked when the whole program is declared.
    "images": {
        "api": "sha256:" + "a1" * 32,
        "worker": "sha256:" + "b2" * 32,
        "admin": "sha256:" + "6f" * 32,
    },
    "redis": {"externalUrl": "rediss://:sample-redis-password@redis.vendor.net:6380/0"},
    "snapshots": {
        "endpoint": "s3.us-west-004.backblazeb2.com",
        "bucket": "honeydue-etcd",
        "region": "us-west-004",
        "accessKey": "sample-access-key",
        "secretKey": "sample-snapshot-secret-key",
        "schedule": "0 */6 * * *",
        "retention": 28,
    },
    "secrets": {
        "SECRET_KEY": "sample-Kq7vT2mZx9Lw4Rb8Nc3Hd6Jf1Gs5Pw0Yt2Ue4Io6Az8Xc",
        "POSTGRES_PASSWORD": "sample-database-password",
        "EMAIL_HOST_PASSWORD": "sample-mail-password",
        "APNS_AUTH_KEY": APNS_KEY,
        "FCM_SERVER_KEY": "sample-fcm-server-key",
        "B2_KEY_ID": "sample-b2-key-id",
        "B2_APP_KEY": "sample-b2-application-key",
    },
}

ENVIRONMENT: Final = {
    "DEBUG": "false",
    "ALLOWED_HOSTS": "api.myhoneydue.com,myhoneydue.com",
    "CORS_ALLOWED_ORIGINS": "https://admin.myhoneydue.com",
    "BASE_URL": "https://api.myhoneydue.com",
    "NEXT_PUBLIC_API_URL": "https://api.myhoneydue.com",
    "DB_HOST": "db.vendor.net",
    "DB_PORT": "5432",
    "POSTGRES_DB": "honeydue",
    "POSTGRES_USER": "honeydue_app",
    "DB_SSLMODE": "require",
    "EMAIL_HOST": "smtp.vendor.net",
    "EMAIL_PORT": "587",
    "EMAIL_USE_TLS": "true",
    "EMAIL_HOST_USER": "noreply@myhoneydue.com",
    "DEFAULT_FROM_EMAIL": "honeyDue <noreply@myhoneydue.com>",
    "APNS_KEY_ID": "ABC123DEFG",
    "APNS_TEAM_ID": "DEF123ABCG",
    "APNS_TOPIC": "com.vendor.honeydue",
    "APNS_USE_SANDBOX": "false",
    "FCM_PROJECT_ID": "honeydue-app",
    "B2_BUCKET_NAME": "honeydue-uploads",
    "B2_ENDPOINT": "s3.us-west-004.backblazeb2.com",
}

GONE: Final = object()
ENV_FILE: Final = "deploy/prod.env"

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def config(path: str, value: object) -> Change:
    """Sets `dns.zoneId`, `cluster.nodes.0.name`…; `GONE` removes it."""

    def change(stack: dict[str, Any], _: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        at: Any = stack
        for parent in parents:
            at = at[int(parent)] if isinstance(at, list) else at.setdefault(parent, {})
        if value is GONE:
            del at[last]
        else:
            at[int(last) if isinstance(at, list) else last] = value

    return change


def env(key: str, value: object) -> Change:
    def change(_: dict[str, Any], environment: dict[str, Any]) -> None:
        if value is GONE:
            del environment[key]
        else:
            environment[key] = value

    return change


def both(*changes: Change) -> Change:
    def change(stack: dict[str, Any], environment: dict[str, Any]) -> None:
        for one in changes:
            one(stack, environment)

    return change


def env_text(environment: Mapping[str, object] = ENVIRONMENT) -> str:
    return "".join(f"{key}={value}\n" for key, value in environment.items())


def settings(*changes: Change) -> Settings:
    """The sample, changed; raises SettingsError like the real thing."""
    stack, environment = copy.deepcopy(CONFIG), dict[str, Any](ENVIRONMENT)
    both(*changes)(stack, environment)
    return parse("prod", stack, env_text(environment), ENV_FILE)


def problems(*changes: Change, text: str | bytes | None = None) -> list[Problem]:
    """What is told about the sample with something made wrong; `text` replaces the env file."""
    stack, environment = copy.deepcopy(CONFIG), dict[str, Any](ENVIRONMENT)
    both(*changes)(stack, environment)
    try:
        parse("prod", stack, env_text(environment) if text is None else text, ENV_FILE)
    except SettingsError as error:
        return error.problems
    return []
