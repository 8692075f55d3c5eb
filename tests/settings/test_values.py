"""Every rule for a single value of the stack's configuration, with what is told word for word."""

# ruff: noqa: E501 - what is told stands here as it is told, on one line

from __future__ import annotations

import base64
from typing import Any, Final

import pytest

from honeydue.problems import Problem

from .sample import CONFIG, config, problems

Refused = tuple[Any, ...]  # a name, what is made wrong, and each Problem that must be told


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


WEAK_RSA: Final = (
    "ssh-rsa "
    + base64.b64encode(
        _field(b"ssh-rsa") + _field(b"\1\0\1") + _field(b"\0\xff" + b"\x11" * 127)
    ).decode()
)


REFUSED: Final[tuple[Refused, ...]] = (
    (
        "a hcloud token of the wrong length",
        config("hcloudToken", "tooShort123"),
        Problem(
            "honeydue:hcloudToken",
            "has 11 characters; a Hetzner Cloud token has exactly 64",
            "pulumi config set -s prod --secret honeydue:hcloudToken",
        ),
    ),
    (
        "a hcloud token with other characters",
        config("hcloudToken", "a-b_" * 16),
        Problem(
            "honeydue:hcloudToken",
            "holds something else than letters and digits; a Hetzner Cloud token does not",
            "pulumi config set -s prod --secret honeydue:hcloudToken",
        ),
    ),
    (
        "a cloudflare token of the wrong length",
        config("cloudflareToken", "abc"),
        Problem(
            "honeydue:cloudflareToken",
            "has 3 characters; a Cloudflare API token has 40 to 80",
            "pulumi config set -s prod --secret honeydue:cloudflareToken",
        ),
    ),
    (
        "a cloudflare token with other characters",
        config("cloudflareToken", "a.b+" * 11),
        Problem(
            "honeydue:cloudflareToken",
            "holds something else than letters, digits, - and _",
            "pulumi config set -s prod --secret honeydue:cloudflareToken",
        ),
    ),
    (
        "a secret that is still a placeholder",
        config("registry.token", "CHANGE_ME"),
        Problem(
            "honeydue:registry.token",
            "is still a placeholder",
            "pulumi config set -s prod --secret --path honeydue:registry.token",
        ),
    ),
    (
        "a secret in angle brackets",
        config("registry.token", "<the gitea token>"),
        Problem(
            "honeydue:registry.token",
            "is still a placeholder",
            "pulumi config set -s prod --secret --path honeydue:registry.token",
        ),
    ),
    (
        "a registry token that is too short",
        config("registry.token", "abc"),
        Problem(
            "honeydue:registry.token",
            "has 3 characters; at least 8 are expected",
            "pulumi config set -s prod --secret --path honeydue:registry.token",
        ),
    ),
    (
        "protect is neither true nor false",
        config("protect", "no"),
        Problem(
            "honeydue:protect",
            "must be true or false",
            "pulumi config set -s prod honeydue:protect True",
        ),
    ),
    (
        "the API open to the internet",
        config("operator.apiCidrs", ["0.0.0.0/0"]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "opens the port to the whole internet; name your own addresses",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "the API open to the internet by IPv6",
        config("operator.apiCidrs", ["203.0.113.7/32", "::/0"]),
        Problem(
            "honeydue:operator.apiCidrs[1]",
            "opens the port to the whole internet; name your own addresses",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[1]' <your address>/32",
        ),
    ),
    (
        "ssh open to the internet",
        config("operator.sshCidrs", ["0.0.0.0/0"]),
        Problem(
            "honeydue:operator.sshCidrs[0]",
            "opens the port to the whole internet; name your own addresses",
            "pulumi config set -s prod --path 'honeydue:operator.sshCidrs[0]' <your address>/32",
        ),
    ),
    (
        "an operator network that is too wide",
        config("operator.apiCidrs", ["203.0.0.0/8"]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "is wider than /16; name your own addresses",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "an operator network that is too wide by IPv6",
        config("operator.sshCidrs", ["2001:d00::/24"]),
        Problem(
            "honeydue:operator.sshCidrs[0]",
            "is wider than /32; name your own addresses",
            "pulumi config set -s prod --path 'honeydue:operator.sshCidrs[0]' <your address>/32",
        ),
    ),
    (
        "an operator network with host bits",
        config("operator.apiCidrs", ["203.0.113.7/24"]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "names a host inside a network; the network is 203.0.113.0/24",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' 203.0.113.7/32",
        ),
    ),
    (
        "an operator address without prefix length",
        config("operator.apiCidrs", ["203.0.113.7"]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "has no prefix length; a single IPv4 address is written with /32, IPv6 /128",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "an operator network that is none",
        config("operator.apiCidrs", ["203.0.113.300/32"]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "is not a network in CIDR form (address/prefix length)",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "a private operator network",
        config("operator.apiCidrs", ["192.168.1.0/24"]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "is not a public network; the firewall only ever sees public addresses",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "no operator network at all",
        config("operator.apiCidrs", []),
        Problem(
            "honeydue:operator.apiCidrs",
            "is empty; the program itself must reach the API server",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "one operator network instead of a list",
        config("operator.apiCidrs", "203.0.113.7/32"),
        Problem(
            "honeydue:operator.apiCidrs",
            "must be a list",
            "Pulumi.prod.yaml: apiCidrs: [<your address>/32]",
        ),
    ),
    (
        "an operator network that YAML reads as a number",
        config("operator.apiCidrs", [203]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "must be a network in CIDR form, in quotes",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "an operator's IPv6 network that is not routed",
        config("operator.apiCidrs", ["fd00:1::/64"]),
        Problem(
            "honeydue:operator.apiCidrs[0]",
            "is not a public network; the firewall only ever sees public addresses",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "a private ssh key",
        config("operator.sshPublicKey", "-----BEGIN OPENSSH PRIVATE KEY-----"),
        Problem(
            "honeydue:operator.sshPublicKey",
            "is a private key. Give the .pub file, and make a new key pair",
            'pulumi config set -s prod --path honeydue:operator.sshPublicKey "$(cat ~/.ssh/id_ed25519.pub)"',
        ),
    ),
    (
        "an ssh key without its type",
        config("operator.sshPublicKey", "AAAAC3NzaC1lZDI1NTE5"),
        Problem(
            "honeydue:operator.sshPublicKey",
            "must begin with its type, such as ssh-ed25519",
            'pulumi config set -s prod --path honeydue:operator.sshPublicKey "$(cat ~/.ssh/id_ed25519.pub)"',
        ),
    ),
    (
        "an ssh key that is cut off",
        config("operator.sshPublicKey", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5"),
        Problem(
            "honeydue:operator.sshPublicKey",
            "is not whole: its second word is not a key of type ssh-ed25519",
            'pulumi config set -s prod --path honeydue:operator.sshPublicKey "$(cat ~/.ssh/id_ed25519.pub)"',
        ),
    ),
    (
        "an ssh key that is not base64",
        config("operator.sshPublicKey", "ssh-ed25519 AAAA!"),
        Problem(
            "honeydue:operator.sshPublicKey",
            "is not whole: its second word is not base64",
            'pulumi config set -s prod --path honeydue:operator.sshPublicKey "$(cat ~/.ssh/id_ed25519.pub)"',
        ),
    ),
    (
        "an ssh key of another type than it says",
        config(
            "operator.sshPublicKey",
            CONFIG["operator"]["sshPublicKey"].replace("ssh-ed25519", "ssh-rsa"),
        ),
        Problem(
            "honeydue:operator.sshPublicKey",
            "is not whole: its second word is not a key of type ssh-rsa",
            'pulumi config set -s prod --path honeydue:operator.sshPublicKey "$(cat ~/.ssh/id_ed25519.pub)"',
        ),
    ),
    (
        "a weak rsa key",
        config("operator.sshPublicKey", WEAK_RSA),
        Problem(
            "honeydue:operator.sshPublicKey",
            "is an RSA key of 1024 bits; at least 3072 are needed, or use ssh-ed25519",
            'pulumi config set -s prod --path honeydue:operator.sshPublicKey "$(cat ~/.ssh/id_ed25519.pub)"',
        ),
    ),
    (
        "a network with host bits",
        config("cluster.networkCidr", "10.10.0.1/16"),
        Problem(
            "honeydue:cluster.networkCidr",
            "names a host inside a network; the network is 10.10.0.0/16",
            "pulumi config set -s prod --path honeydue:cluster.networkCidr 10.10.0.0/16",
        ),
    ),
    (
        "a network outside the private ranges",
        config("cluster.podCidr", "100.64.0.0/16"),
        Problem(
            "honeydue:cluster.podCidr",
            "must lie in 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16 (RFC 1918)",
            "pulumi config set -s prod --path honeydue:cluster.podCidr 10.42.0.0/16",
        ),
    ),
    (
        "an IPv6 network",
        config("cluster.serviceCidr", "fd00::/64"),
        Problem(
            "honeydue:cluster.serviceCidr",
            "must be IPv4: Hetzner's private networks know nothing else",
            "pulumi config set -s prod --path honeydue:cluster.serviceCidr 10.43.0.0/16",
        ),
    ),
    (
        "a server for another architecture",
        config("cluster.nodes.1.serverType", "cax21"),
        Problem(
            "honeydue:cluster.nodes[1].serverType",
            "is an Arm server; the images are built for amd64",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[1].serverType' cx33",
        ),
    ),
    (
        "an unknown kind of server",
        config("cluster.nodes.1.serverType", "t3.large"),
        Problem(
            "honeydue:cluster.nodes[1].serverType",
            "is not a Hetzner server type, such as cx33",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[1].serverType' cx33",
        ),
    ),
    (
        "a server that is too small",
        config("cluster.nodes.0.serverType", "cpx11"),
        Problem(
            "honeydue:cluster.nodes[0].serverType",
            "has 2 GB; a manager with workloads needs at least 4 GB",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[0].serverType' cx33",
        ),
    ),
    (
        "an unknown location",
        config("cluster.location", "fra1"),
        Problem(
            "honeydue:cluster.location",
            "must be one of fsn1, nbg1, hel1, ash, hil, sin",
            "pulumi config set -s prod --path honeydue:cluster.location nbg1",
        ),
    ),
    (
        "an unknown network zone",
        config("cluster.networkZone", "europe"),
        Problem(
            "honeydue:cluster.networkZone",
            "must be one of ap-southeast, eu-central, us-east, us-west",
            "pulumi config set -s prod --path honeydue:cluster.networkZone eu-central",
        ),
    ),
    (
        "a generation of zero",
        config("cluster.nodes.2.generation", 0),
        Problem(
            "honeydue:cluster.nodes[2].generation",
            "must be at least 1",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[2].generation' <1 or more>",
        ),
    ),
    (
        "a generation in quotes",
        config("cluster.nodes.2.generation", "2"),
        Problem(
            "honeydue:cluster.nodes[2].generation",
            "must be a whole number, without quotes",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[2].generation' <1 or more>",
        ),
    ),
    (
        "a generation that is a fraction",
        config("cluster.nodes.2.generation", 1.5),
        Problem(
            "honeydue:cluster.nodes[2].generation",
            "must be a whole number, without quotes",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[2].generation' <1 or more>",
        ),
    ),
    (
        "too little time for a boot",
        config("cluster.bootMinutes", 1),
        Problem(
            "honeydue:cluster.bootMinutes",
            "must be at least 5",
            "pulumi config set -s prod --path honeydue:cluster.bootMinutes 15",
        ),
    ),
    (
        "too much time for a boot",
        config("cluster.bootMinutes", 1000),
        Problem(
            "honeydue:cluster.bootMinutes",
            "must be at most 240",
            "pulumi config set -s prod --path honeydue:cluster.bootMinutes 15",
        ),
    ),
    (
        "a node without a number",
        config("cluster.nodes.0.name", "honeydue"),
        Problem(
            "honeydue:cluster.nodes[0].name",
            "must be <name>-<number> in lower case, as in honeydue-1",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[0].name' honeydue-1",
        ),
    ),
    (
        "a node number that is too high",
        config("cluster.nodes.0.name", "honeydue-201"),
        Problem(
            "honeydue:cluster.nodes[0].name",
            "must end in a number from 1 to 200: it becomes the node's private address",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[0].name' honeydue-1",
        ),
    ),
    (
        "a node name in capitals",
        config("cluster.nodes.0.name", "HoneyDue-1"),
        Problem(
            "honeydue:cluster.nodes[0].name",
            "must be <name>-<number> in lower case, as in honeydue-1",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[0].name' honeydue-1",
        ),
    ),
    (
        "nodes that are no list",
        config("cluster.nodes", {"name": "honeydue-1"}),
        Problem(
            "honeydue:cluster.nodes",
            "must be a list with at least one entry",
            "Pulumi.prod.yaml: nodes: [{name: honeydue-1}, …]",
        ),
    ),
    (
        "no nodes",
        config("cluster.nodes", []),
        Problem(
            "honeydue:cluster.nodes",
            "must be a list with at least one entry",
            "Pulumi.prod.yaml: nodes: [{name: honeydue-1}, …]",
        ),
    ),
    (
        "a cluster name that is no label",
        config("cluster.name", "honey_due"),
        Problem(
            "honeydue:cluster.name",
            "must be lower-case letters, digits and -, at most 40 characters",
            "pulumi config set -s prod --path honeydue:cluster.name honeydue",
        ),
    ),
    (
        "a zone id of the wrong shape",
        config("dns.zoneId", "0123456789ABCDEF"),
        Problem(
            "honeydue:dns.zoneId",
            "must be 32 hexadecimal digits in lower case",
            "pulumi config set -s prod --path honeydue:dns.zoneId <32 hexadecimal digits>",
        ),
    ),
    (
        "a host with a look-alike letter",
        config("dns.api", "\u0430pi.myhoneydue.com"),
        Problem(
            "honeydue:dns.api",
            "holds U+0430 (cyrillic small letter a), which only looks like a plain letter",
            "pulumi config set -s prod --path honeydue:dns.api <host>",
        ),
    ),
    (
        "a host with a scheme",
        config("dns.api", "https://api.myhoneydue.com"),
        Problem(
            "honeydue:dns.api",
            "must be a host name alone, without scheme or path",
            "pulumi config set -s prod --path honeydue:dns.api <host>",
        ),
    ),
    (
        "a host with a port",
        config("dns.api", "api.myhoneydue.com:443"),
        Problem(
            "honeydue:dns.api",
            "must be a host name alone, without a port",
            "pulumi config set -s prod --path honeydue:dns.api <host>",
        ),
    ),
    (
        "a host in capitals",
        config("dns.api", "API.myhoneydue.com"),
        Problem(
            "honeydue:dns.api",
            "must be in lower case",
            "pulumi config set -s prod --path honeydue:dns.api <host>",
        ),
    ),
    (
        "a host with an underscore",
        config("dns.api", "my_api.myhoneydue.com"),
        Problem(
            "honeydue:dns.api",
            "is not a valid DNS name",
            "pulumi config set -s prod --path honeydue:dns.api <host>",
        ),
    ),
    (
        "a host with a trailing dot",
        config("dns.api", "api.myhoneydue.com."),
        Problem(
            "honeydue:dns.api",
            "is not a valid DNS name",
            "pulumi config set -s prod --path honeydue:dns.api <host>",
        ),
    ),
    (
        "a host with an invisible character",
        config("dns.api", "api\u200b.myhoneydue.com"),
        Problem(
            "honeydue:dns.api",
            "holds an invisible character (U+200B)",
            "pulumi config set -s prod --path honeydue:dns.api <host>",
        ),
    ),
    (
        "an example host",
        config("dns.zone", "example.com"),
        Problem(
            "honeydue:dns.zone",
            "is still a placeholder",
            "pulumi config set -s prod --path honeydue:dns.zone <host>",
        ),
    ),
    (
        "an unknown ssl mode",
        config("dns.ssl", "full"),
        Problem(
            "honeydue:dns.ssl",
            "must be one of flexible, strict",
            "pulumi config set -s prod --path honeydue:dns.ssl strict",
        ),
    ),
    (
        "a TLS version that YAML reads as a number",
        config("dns.minTls", 1.2),
        Problem(
            "honeydue:dns.minTls",
            "must be text; YAML reads it as a number, so write it in quotes",
            'pulumi config set -s prod --path honeydue:dns.minTls "1.2"',
        ),
    ),
    (
        "an unknown TLS version",
        config("dns.minTls", "1.4"),
        Problem(
            "honeydue:dns.minTls",
            "must be one of 1.0, 1.1, 1.2, 1.3",
            'pulumi config set -s prod --path honeydue:dns.minTls "1.2"',
        ),
    ),
    (
        "a registry with a scheme",
        config("registry.server", "https://gitea.treytartt.com"),
        Problem(
            "honeydue:registry.server",
            "must be a host name alone, without scheme or path",
            "pulumi config set -s prod --path honeydue:registry.server gitea.treytartt.com",
        ),
    ),
    (
        "a registry with a path",
        config("registry.server", "gitea.treytartt.com/admin"),
        Problem(
            "honeydue:registry.server",
            "must be a host name alone, without scheme or path",
            "pulumi config set -s prod --path honeydue:registry.server gitea.treytartt.com",
        ),
    ),
    (
        "a registry with a port that is none",
        config("registry.server", "gitea.treytartt.com:99999"),
        Problem(
            "honeydue:registry.server",
            "must be a whole number from 1 to 65535",
            "pulumi config set -s prod --path honeydue:registry.server gitea.treytartt.com",
        ),
    ),
    (
        "a registry namespace in capitals",
        config("registry.namespace", "Admin"),
        Problem(
            "honeydue:registry.namespace",
            "must be one path segment in lower case",
            "pulumi config set -s prod --path honeydue:registry.namespace admin",
        ),
    ),
    (
        "a registry user with blanks",
        config("registry.username", "the admin"),
        Problem(
            "honeydue:registry.username",
            "must be a Gitea user name",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "the tag latest",
        config("images.api", "latest"),
        Problem(
            "honeydue:images.api",
            "must not be latest: a rollback could not name what ran before",
            "pulumi config set -s prod --path honeydue:images.api <git short SHA>",
        ),
    ),
    (
        "a version instead of a SHA",
        config("images.api", "v1.2.3"),
        Problem(
            "honeydue:images.api",
            "must be a git short SHA (7 to 40 hexadecimal digits) or a sha256: digest",
            "pulumi config set -s prod --path honeydue:images.api <git short SHA>",
        ),
    ),
    (
        "a whole reference instead of a tag",
        config("images.api", "gitea.treytartt.com/admin/honeydue-api:237c6b8"),
        Problem(
            "honeydue:images.api",
            "must be the tag or digest alone; the registry is another setting",
            "pulumi config set -s prod --path honeydue:images.api <git short SHA>",
        ),
    ),
    (
        "a digest that is cut off",
        config("images.worker", "sha256:6f303d"),
        Problem(
            "honeydue:images.worker",
            "is a digest of the wrong length: sha256: and 64 hexadecimal digits",
            "pulumi config set -s prod --path honeydue:images.worker <git short SHA>",
        ),
    ),
    (
        "a tag that YAML reads as a float",
        config("images.admin", 12e40),
        Problem(
            "honeydue:images.admin",
            "must be text; YAML reads it as a number, so write it in quotes",
            'Pulumi.prod.yaml: admin: "<git short SHA>"',
        ),
    ),
    (
        "a text that YAML reads as true",
        config("registry.namespace", True),
        Problem(
            "honeydue:registry.namespace",
            "must be text; YAML reads it as true or false, so write it in quotes",
            'Pulumi.prod.yaml: namespace: "admin"',
        ),
    ),
    (
        "a text that is a list",
        config("registry.namespace", ["admin"]),
        Problem(
            "honeydue:registry.namespace",
            "must be text",
            "pulumi config set -s prod --path honeydue:registry.namespace admin",
        ),
    ),
    (
        "an external redis over http",
        config("redis.externalUrl", "https://redis.vendor.net"),
        Problem(
            "honeydue:redis.externalUrl",
            "must begin with rediss:// (or redis://)",
            "pulumi config set -s prod --secret --path honeydue:redis.externalUrl",
        ),
    ),
    (
        "an external redis without host",
        config("redis.externalUrl", "rediss://"),
        Problem(
            "honeydue:redis.externalUrl",
            "is not a URL: <scheme>://<host> is missing",
            "pulumi config set -s prod --secret --path honeydue:redis.externalUrl",
        ),
    ),
    (
        "a snapshot endpoint with a scheme",
        config("snapshots.endpoint", "https://s3.vendor.net"),
        Problem(
            "honeydue:snapshots.endpoint",
            "must be a host name alone, without scheme or path",
            "pulumi config set -s prod --path honeydue:snapshots.endpoint s3.us-west-004.backblazeb2.com",
        ),
    ),
    (
        "a bucket name in capitals",
        config("snapshots.bucket", "HoneyDue"),
        Problem(
            "honeydue:snapshots.bucket",
            "must be 3 to 63 lower-case letters, digits and -",
            "pulumi config set -s prod --path honeydue:snapshots.bucket <bucket>",
        ),
    ),
    (
        "a bucket name with dots",
        config("snapshots.bucket", "honeydue.etcd"),
        Problem(
            "honeydue:snapshots.bucket",
            "must be 3 to 63 lower-case letters, digits and -",
            "pulumi config set -s prod --path honeydue:snapshots.bucket <bucket>",
        ),
    ),
    (
        "a snapshot folder that begins with a slash",
        config("snapshots.folder", "/honeydue"),
        Problem(
            "honeydue:snapshots.folder",
            "must be a path without / at either end",
            "pulumi config set -s prod --path honeydue:snapshots.folder honeydue",
        ),
    ),
    (
        "a region in capitals",
        config("snapshots.region", "US West"),
        Problem(
            "honeydue:snapshots.region",
            "must be an S3 region in lower case",
            "pulumi config set -s prod --path honeydue:snapshots.region us-west-004",
        ),
    ),
    (
        "a schedule of four fields",
        config("snapshots.schedule", "0 */6 * *"),
        Problem(
            "honeydue:snapshots.schedule",
            "has 4 fields; a schedule has 5: minute hour day month weekday",
            'pulumi config set -s prod --path honeydue:snapshots.schedule "0 */6 * * *"',
        ),
    ),
    (
        "a schedule with an hour that is none",
        config("snapshots.schedule", "0 24 * * *"),
        Problem(
            "honeydue:snapshots.schedule",
            "is outside 0 to 23 in the field hour",
            'pulumi config set -s prod --path honeydue:snapshots.schedule "0 */6 * * *"',
        ),
    ),
    (
        "a schedule with words",
        config("snapshots.schedule", "0 6 * * mon"),
        Problem(
            "honeydue:snapshots.schedule",
            "is no number, range, list or step in the field weekday",
            'pulumi config set -s prod --path honeydue:snapshots.schedule "0 */6 * * *"',
        ),
    ),
    (
        "no snapshot kept",
        config("snapshots.retention", 0),
        Problem(
            "honeydue:snapshots.retention",
            "must be at least 1",
            "pulumi config set -s prod --path honeydue:snapshots.retention 28",
        ),
    ),
    (
        "a snapshot key that is null",
        config("snapshots.accessKey", None),
        Problem(
            "honeydue:snapshots.accessKey",
            "is null",
            "pulumi config set -s prod --secret --path honeydue:snapshots.accessKey",
        ),
    ),
    (
        "a section that is a text",
        config("registry", "gitea.treytartt.com"),
        Problem(
            "honeydue:registry",
            "must be an object with server, namespace, username, token",
            "Pulumi.prod.yaml: registry: {server: …, namespace: …, username: …, token: …}",
        ),
    ),
    (
        "a node that is a text",
        config("cluster.nodes.1", "honeydue-2"),
        Problem(
            "honeydue:cluster.nodes[1]",
            "must be an object with name",
            "Pulumi.prod.yaml: nodes[1]: {name: …}",
        ),
    ),
    (
        "a value in quotes",
        config("registry.username", '"admin"'),
        Problem(
            "honeydue:registry.username",
            "begins or ends with a quote mark, which would become part of the value",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value with a curly quote",
        config("registry.username", "admin\u201d"),
        Problem(
            "honeydue:registry.username",
            "begins or ends with a quote mark, which would become part of the value",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value with a Windows line end",
        config("registry.username", "admin\r\n"),
        Problem(
            "honeydue:registry.username",
            "holds a line break (Windows line ends?); it must be one line",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value with a blank at its end",
        config("registry.username", "admin "),
        Problem(
            "honeydue:registry.username",
            "begins or ends with a blank",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value with a NUL",
        config("registry.username", "ad\0min"),
        Problem(
            "honeydue:registry.username",
            "holds a NUL character",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value with a control character",
        config("registry.username", "ad\x1bmin"),
        Problem(
            "honeydue:registry.username",
            "holds an invisible character (U+001B)",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value that is only blanks",
        config("registry.username", "  "),
        Problem(
            "honeydue:registry.username",
            "is empty",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value that is far too long",
        config("registry.username", "a" * 5000),
        Problem(
            "honeydue:registry.username",
            "is longer than 4096 bytes",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value that says your-",
        config("registry.username", "your-username"),
        Problem(
            "honeydue:registry.username",
            "is still a placeholder",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value of x",
        config("registry.username", "XXX"),
        Problem(
            "honeydue:registry.username",
            "is still a placeholder",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
    (
        "a value that says TODO",
        config("registry.username", "TODO"),
        Problem(
            "honeydue:registry.username",
            "is still a placeholder",
            "pulumi config set -s prod --path honeydue:registry.username admin",
        ),
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_a_wrong_value_is_told_with_the_line_that_mends_it(case: Refused) -> None:
    _, change, *told = case
    assert problems(change) == told
