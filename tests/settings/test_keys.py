"""Unknown and missing keys of the stack's configuration."""

from __future__ import annotations

from typing import Any, Final

import pytest

from honeydue.problems import Problem

from .sample import GONE, config, problems

Refused = tuple[Any, ...]  # a name, what is made wrong, and each Problem that must be told

REFUSED: Final[tuple[Refused, ...]] = (
    (
        "a misspelt key",
        config("protekt", "true"),
        Problem(
            "honeydue:protekt",
            "is unknown; did you mean protect?",
            "Pulumi.prod.yaml: write protect instead of protekt",
        ),
    ),
    (
        "a key in another spelling",
        config("hcloud_token", "abc"),
        Problem(
            "honeydue:hcloud_token",
            "is unknown; did you mean hcloudToken?",
            "Pulumi.prod.yaml: write hcloudToken instead of hcloud_token",
        ),
    ),
    (
        "a misspelt key in a section",
        config("operator.apiCidr", ["203.0.113.7/32"]),
        Problem(
            "honeydue:operator.apiCidr",
            "is unknown; did you mean apiCidrs?",
            "Pulumi.prod.yaml: write apiCidrs instead of apiCidr",
        ),
    ),
    (
        "a misspelt key of a node",
        config("cluster.nodes.0.servertype", "cx33"),
        Problem(
            "honeydue:cluster.nodes[0].servertype",
            "is unknown; did you mean serverType?",
            "Pulumi.prod.yaml: write serverType instead of servertype",
        ),
    ),
    (
        "a key that is like no other",
        config("monitoring", "true"),
        Problem(
            "honeydue:monitoring", "is unknown", "pulumi config rm -s prod honeydue:monitoring"
        ),
    ),
    (
        "a key in a section that is like no other",
        config("dns.ttl", 300),
        Problem(
            "honeydue:dns.ttl", "is unknown", "pulumi config rm -s prod --path honeydue:dns.ttl"
        ),
    ),
    (
        "a key that is no name",
        config("dns.MIGHAgEAMBMGByqGSM49+/AwEHBG0wawIBAQ==", "x"),
        Problem(
            "honeydue:dns",
            "holds a key that is no name, and is not shown here",
            "Pulumi.prod.yaml: take it out",
        ),
    ),
    (
        "a default provider's configuration",
        config("hcloud:token", "abc"),
        Problem(
            "hcloud:token",
            "configures a default provider, and this program has none",
            "pulumi config rm -s prod hcloud:token",
        ),
    ),
    (
        "a field of the settings that is no key",
        config("environment", {"DEBUG": "true"}),
        Problem(
            "honeydue:environment", "is unknown", "pulumi config rm -s prod honeydue:environment"
        ),
    ),
    (
        "a missing key",
        config("hcloudToken", GONE),
        Problem(
            "honeydue:hcloudToken",
            "is missing",
            "pulumi config set -s prod --secret honeydue:hcloudToken",
        ),
    ),
    (
        "a missing key in a section",
        config("dns.zoneId", GONE),
        Problem(
            "honeydue:dns.zoneId",
            "is missing",
            "pulumi config set -s prod --path honeydue:dns.zoneId <32 hexadecimal digits>",
        ),
    ),
    (
        "a missing list",
        config("operator.apiCidrs", GONE),
        Problem(
            "honeydue:operator.apiCidrs",
            "is missing",
            "pulumi config set -s prod --path 'honeydue:operator.apiCidrs[0]' <your address>/32",
        ),
    ),
    (
        "a null",
        config("dns.zoneId", None),
        Problem(
            "honeydue:dns.zoneId",
            "is null",
            "pulumi config set -s prod --path honeydue:dns.zoneId <32 hexadecimal digits>",
        ),
    ),
    (
        "a missing name of a node",
        config("cluster.nodes.1", {"generation": 1}),
        Problem(
            "honeydue:cluster.nodes[1].name",
            "is missing",
            "pulumi config set -s prod --path 'honeydue:cluster.nodes[1].name' honeydue-1",
        ),
    ),
)


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_an_unknown_or_missing_key_is_told_with_the_line_that_mends_it(case: Refused) -> None:
    _, change, *told = case
    assert problems(change) == told
