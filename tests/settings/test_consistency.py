"""Every rule between settings, with what is told word for word."""

from __future__ import annotations

from typing import Any, Final

import pytest

from honeydue.problems import Problem

from .sample import APNS_KEY, GONE, PUBLIC_KEY, both, config, env, problems, settings

Refused = tuple[Any, ...]  # a name, what is made wrong, and each Problem that must be told


def nodes(*numbers: int) -> list[dict[str, Any]]:
    return [{"name": f"honeydue-{number}"} for number in numbers]


KEYS: Final = {"publicKey": PUBLIC_KEY, "privateKey": APNS_KEY}
APP: Final = both(config("app.path", "../app"), config("signing", KEYS))
REFUSED: Final[tuple[Refused, ...]] = (
    (
        "two managers",
        config("cluster.nodes", nodes(1, 2)),
        Problem(
            "honeydue:cluster.nodes",
            "has 2 managers; an even number survives no more losses than 1 would",
            "Pulumi.prod.yaml: nodes: [{name: honeydue-1}, {name: honeydue-2}, {name: honeydue-3}]",
        ),
    ),
    (
        "four managers",
        config("cluster.nodes", nodes(1, 2, 3, 4)),
        Problem(
            "honeydue:cluster.nodes",
            "has 4 managers; an even number survives no more losses than 3 would",
            "Pulumi.prod.yaml: nodes: [{name: honeydue-1}, {name: honeydue-2}, {name: honeydue-3}]",
        ),
    ),
    (
        "nine managers",
        config("cluster.nodes", nodes(*range(1, 10))),
        Problem(
            "honeydue:cluster.nodes",
            "has 9 managers; etcd is not meant for more than 7",
            "Pulumi.prod.yaml: nodes: [{name: honeydue-1}, {name: honeydue-2}, {name: honeydue-3}]",
        ),
    ),
    (
        "two nodes of one name",
        config("cluster.nodes.2.name", "honeydue-2"),
        Problem(
            "honeydue:cluster.nodes[2].name",
            "is another node's name too (honeydue-2)",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[2].name' honeydue-3",
        ),
    ),
    (
        "a node of another cluster",
        config("cluster.nodes.2.name", "casera-3"),
        Problem(
            "honeydue:cluster.nodes[2].name",
            "must begin with the cluster's name, honeydue",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[2].name' honeydue-3",
        ),
    ),
    (
        "a node number beyond its subnet",
        both(
            config("cluster.nodeCidr", "10.10.1.0/28"), config("cluster.nodes.2.name", "honeydue-5")
        ),
        Problem(
            "honeydue:cluster.nodeCidr",
            "has no address 15, which honeydue-5 needs",
            "pulumi config set -s prod --path honeydue:cluster.nodeCidr 10.10.1.0/24",
        ),
    ),
    (
        "an api node that is no node",
        config("cluster.apiNode", "honeydue-4"),
        Problem(
            "honeydue:cluster.apiNode",
            "must be one of honeydue-1, honeydue-2, honeydue-3",
            "pulumi config set -s prod --path honeydue:cluster.apiNode honeydue-1",
        ),
    ),
    (
        "a cluster outside its network zone",
        both(
            config("cluster.networkZone", "us-east"),
            config(
                "cluster.nodes",
                [dict(n, location="ash", serverType="cpx31") for n in nodes(1, 2, 3)],
            ),
        ),
        Problem(
            "honeydue:cluster.location",
            "is in network zone eu-central, the private network in us-east",
            "pulumi config set -s prod --path honeydue:cluster.location ash",
        ),
    ),
    (
        "a node outside the network zone",
        both(
            config("cluster.nodes.1.location", "ash"), config("cluster.nodes.1.serverType", "cpx31")
        ),
        Problem(
            "honeydue:cluster.nodes[1].location",
            "is in network zone us-east, the private network in eu-central",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[1].location' fsn1",
        ),
    ),
    (
        "a European server in America",
        both(
            config("cluster.location", "hil"),
            config("cluster.networkZone", "us-west"),
            config("cluster.nodes", [dict(n, serverType="cpx31") for n in nodes(1, 2)] + nodes(3)),
        ),
        Problem(
            "honeydue:cluster.nodes[2].serverType",
            "is sold in Europe only, not in hil",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[2].serverType' cpx31",
        ),
    ),
    (
        "a node subnet outside the network",
        config("cluster.nodeCidr", "10.11.1.0/24"),
        Problem(
            "honeydue:cluster.nodeCidr",
            "must lie inside cluster.networkCidr (10.10.0.0/16)",
            "pulumi config set -s prod --path honeydue:cluster.nodeCidr 10.10.0.0/24",
        ),
    ),
    (
        "pods in the private network",
        config("cluster.podCidr", "10.10.0.0/18"),
        Problem(
            "honeydue:cluster.podCidr",
            "(10.10.0.0/18) overlaps cluster.networkCidr (10.10.0.0/16)",
            "pulumi config set -s prod --path honeydue:cluster.podCidr 10.42.0.0/16",
        ),
    ),
    (
        "pods in a network of thousands of nodes",
        config("cluster.podCidr", "172.16.0.0/13"),
        Problem(
            "honeydue:cluster.podCidr",
            "is wider than /14: room for over 1024 nodes, and no pod reaches what else lies in it",
            "pulumi config set -s prod --path honeydue:cluster.podCidr 172.16.0.0/16",
        ),
    ),
    (
        "services among the pods",
        config("cluster.serviceCidr", "10.42.128.0/17"),
        Problem(
            "honeydue:cluster.serviceCidr",
            "(10.42.128.0/17) overlaps cluster.podCidr (10.42.0.0/16)",
            "pulumi config set -s prod --path honeydue:cluster.serviceCidr 10.43.0.0/16",
        ),
    ),
    (
        "a pod network that is too small",
        config("cluster.podCidr", "10.42.0.0/23"),
        Problem(
            "honeydue:cluster.podCidr",
            "is too small: each of the 3 nodes takes a /24 of it",
            "pulumi config set -s prod --path honeydue:cluster.podCidr 10.42.0.0/16",
        ),
    ),
    (
        "an api host outside the zone",
        both(
            config("dns.api", "api.honeydue.dev"),
            *(env(k, "https://api.honeydue.dev") for k in ("BASE_URL", "NEXT_PUBLIC_API_URL")),
            env("ALLOWED_HOSTS", "api.honeydue.dev"),
        ),
        Problem(
            "honeydue:dns.api",
            "is not in the zone myhoneydue.com",
            "pulumi config set -s prod --path honeydue:dns.api api.myhoneydue.com",
        ),
    ),
    (
        "a host that only ends like the zone",
        config("dns.landing", "notmyhoneydue.com"),
        Problem(
            "honeydue:dns.landing",
            "is not in the zone myhoneydue.com",
            "pulumi config set -s prod --path honeydue:dns.landing myhoneydue.com",
        ),
    ),
    (
        "two names for one host",
        config("dns.landing", "api.myhoneydue.com"),
        Problem(
            "honeydue:dns.landing",
            "is the same host as dns.api",
            "pulumi config set -s prod --path honeydue:dns.landing myhoneydue.com",
        ),
    ),
    (
        "an api that does not answer for its host",
        env("ALLOWED_HOSTS", "myhoneydue.com"),
        Problem(
            "deploy/prod.env: ALLOWED_HOSTS",
            "does not hold dns.api (api.myhoneydue.com): every request would be refused",
            "deploy/prod.env: ALLOWED_HOSTS=api.myhoneydue.com,myhoneydue.com",
        ),
    ),
    (
        "an admin panel that may not call the api",
        env("CORS_ALLOWED_ORIGINS", "https://myhoneydue.com"),
        Problem(
            "deploy/prod.env: CORS_ALLOWED_ORIGINS",
            "does not hold the admin panel's origin (https://admin.myhoneydue.com)",
            "deploy/prod.env: CORS_ALLOWED_ORIGINS=https://admin.myhoneydue.com,https://myhoneydue.com",
        ),
    ),
    (
        "a base URL of another host",
        env("BASE_URL", "https://www.myhoneydue.com"),
        Problem(
            "deploy/prod.env: BASE_URL",
            "does not point at dns.api (api.myhoneydue.com)",
            "deploy/prod.env: BASE_URL=https://api.myhoneydue.com",
        ),
    ),
    (
        "an admin panel that calls another host",
        env("NEXT_PUBLIC_API_URL", "https://admin.myhoneydue.com"),
        Problem(
            "deploy/prod.env: NEXT_PUBLIC_API_URL",
            "does not point at dns.api (api.myhoneydue.com)",
            "deploy/prod.env: NEXT_PUBLIC_API_URL=https://api.myhoneydue.com",
        ),
    ),
    (
        "more idle connections than connections",
        both(env("DB_MAX_OPEN_CONNS", "5"), env("DB_MAX_IDLE_CONNS", "10")),
        Problem(
            "deploy/prod.env: DB_MAX_IDLE_CONNS",
            "is more than DB_MAX_OPEN_CONNS (5)",
            "deploy/prod.env: DB_MAX_IDLE_CONNS=5",
        ),
    ),
    (
        "B2 without its key",
        config("secrets.B2_APP_KEY", GONE),
        Problem(
            "honeydue:secrets.B2_APP_KEY",
            "is missing, but B2_BUCKET_NAME, B2_ENDPOINT, B2_KEY_ID are given: all or none",
            "pulumi config set -s prod --secret --path honeydue:secrets.B2_APP_KEY",
        ),
    ),
    (
        "B2 without its bucket",
        env("B2_BUCKET_NAME", GONE),
        Problem(
            "deploy/prod.env: B2_BUCKET_NAME",
            "is missing, but B2_ENDPOINT, B2_KEY_ID, B2_APP_KEY are given: all or none",
            "deploy/prod.env: B2_BUCKET_NAME=<bucket>",
        ),
    ),
    (
        "B2 with nothing but its bucket",
        both(
            env("B2_ENDPOINT", GONE),
            config("secrets.B2_KEY_ID", GONE),
            config("secrets.B2_APP_KEY", GONE),
        ),
        Problem(
            "honeydue:secrets.B2_APP_KEY",
            "is missing, but B2_BUCKET_NAME is given: all or none",
            "pulumi config set -s prod --secret --path honeydue:secrets.B2_APP_KEY",
        ),
        Problem(
            "honeydue:secrets.B2_KEY_ID",
            "is missing, but B2_BUCKET_NAME is given: all or none",
            "pulumi config set -s prod --secret --path honeydue:secrets.B2_KEY_ID",
        ),
        Problem(
            "deploy/prod.env: B2_ENDPOINT",
            "is missing, but B2_BUCKET_NAME is given: all or none",
            "deploy/prod.env: B2_ENDPOINT=<s3 host of the bucket's region>",
        ),
    ),
    (
        "FCM without its project",
        env("FCM_PROJECT_ID", GONE),
        Problem(
            "deploy/prod.env: FCM_PROJECT_ID",
            "is missing, but FCM_SERVER_KEY is given: all or none",
            "deploy/prod.env: FCM_PROJECT_ID=<project id>",
        ),
    ),
    (
        "a service that nothing says what it runs",
        config("images.worker", GONE),
        Problem(
            "honeydue:images.worker",
            "is missing, and nothing is built: give a tag or digest, or app.path to build from",
            "pulumi config set -s prod --path honeydue:images.worker <git short SHA>",
        ),
    ),
    (
        "something to build, and nothing to build it from",
        both(config("image.build", True), config("images.worker", GONE), config("signing", KEYS)),
        Problem(
            "honeydue:app.path",
            "is missing, and image.build is true: there is nothing to build from",
            "pulumi config set -s prod --path honeydue:app.path ../honeyDueAPI-go",
        ),
    ),
    (
        "a database password with the user in it",
        config("secrets.POSTGRES_PASSWORD", "honeydue_app-2026"),
        Problem(
            "honeydue:secrets.POSTGRES_PASSWORD",
            "holds POSTGRES_USER",
            "pulumi config set -s prod --secret --path honeydue:secrets.POSTGRES_PASSWORD",
        ),
    ),
    (
        "one password for two accounts",
        config("secrets.EMAIL_HOST_PASSWORD", "sample-database-password"),
        Problem(
            "honeydue:secrets.EMAIL_HOST_PASSWORD",
            "has the same value as secrets.POSTGRES_PASSWORD",
            "pulumi config set -s prod --secret --path honeydue:secrets.EMAIL_HOST_PASSWORD",
        ),
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_settings_that_do_not_fit_together_are_told_with_the_line_that_mends_them(
    case: Refused,
) -> None:
    _, change, *told = case
    assert problems(change) == told


BUILT: Final[tuple[tuple[str, Any, tuple[str, ...]], ...]] = (
    ("nothing to build from", both(), ()),
    ("all are pinned", config("app.path", "../app"), ()),
    ("one is not pinned", both(APP, config("images.api", GONE)), ("api",)),
    ("none is pinned", both(APP, config("images", GONE)), ("api", "worker", "admin")),
    ("building is off", both(APP, config("image.build", False)), ()),
)


@pytest.mark.parametrize(("change", "built"), [c[1:] for c in BUILT], ids=[c[0] for c in BUILT])
def test_what_is_not_pinned_is_built(change: Any, built: tuple[str, ...]) -> None:
    assert settings(change).built == built
