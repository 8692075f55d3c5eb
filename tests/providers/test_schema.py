"""Inputs are checked by what the installed SDK packages declare."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from rehearsal.engine.provider import UNKNOWN
from rehearsal.providers import schema

SERVER = "hcloud:index/server:Server"


@pytest.mark.parametrize(
    ("type_", "required"),
    [
        (SERVER, {"serverType"}),
        (
            "hcloud:index/networkSubnet:NetworkSubnet",
            {"networkId", "type", "networkZone", "ipRange"},
        ),
        ("cloudflare:index/dnsRecord:DnsRecord", {"name", "ttl", "type", "zoneId"}),
        ("random:index/randomPassword:RandomPassword", {"length"}),
        ("tls:index/privateKey:PrivateKey", {"algorithm"}),
        ("command:local:Command", set()),
        ("kubernetes:apps/v1:Deployment", {"spec"}),
        ("pulumi:providers:hcloud", set()),
    ],
)
def test_required_inputs_are_those_of_the_sdk(type_: str, required: set[str]) -> None:
    declared = schema.properties(type_)
    assert {name for name, found in declared.items() if found.required} == required


@pytest.mark.parametrize(
    ("inputs", "failures"),
    [
        ({"serverType": "cx33"}, []),
        ({"serverType": UNKNOWN, "labels": UNKNOWN, "networks": [UNKNOWN]}, []),
        ({"serverType": "cx33", "placementGroupId": 3.0}, []),
        ({"serverType": "cx33", "name": None}, []),
        ({"serverType": "cx33", "__defaults": []}, []),
        ({}, ["serverType: is required"]),
        ({"serverType": None}, ["serverType: is required"]),
        (
            {"serverType": "cx33", "placementGroupId": "3"},
            ["placementGroupId: must be a whole number, not a string"],
        ),
        (
            {"serverType": "cx33", "placementGroupId": 3.5},
            ["placementGroupId: must be a whole number, not a number"],
        ),
        (
            {"serverType": "cx33", "backups": 1},
            ["backups: must be true or false, not a whole number"],
        ),
        (
            {"serverType": "cx33", "labels": {"a": 1}},
            ["labels.a: must be a string, not a whole number"],
        ),
        ({"serverType": "cx33", "labels": []}, ["labels: must be a map, not a list"]),
        ({"serverType": "cx33", "sshKeys": "a"}, ["sshKeys: must be a list, not a string"]),
        (
            {"serverType": "cx33", "networks": [{"netwrkId": 1}]},
            ["networks[0].netwrkId: unknown property; did you mean 'networkId'?"],
        ),
        (
            {"serverType": "cx33", "networks": ["a"]},
            ["networks[0]: must be an object, not a string"],
        ),
        (
            {"serverType": "cx33", "user_data": "x"},
            ["user_data: unknown property; did you mean 'userData'?"],
        ),
    ],
)
def test_every_wrong_input_is_named_with_its_path(
    inputs: dict[str, Any], failures: list[str]
) -> None:
    found = schema.check(SERVER, inputs)
    assert [f"{failure.property}: {failure.reason}" for failure in found] == failures


def test_no_value_appears_in_a_failure() -> None:
    found = schema.check(SERVER, {"serverType": "cx33", "userData": ["s3cret-canary"]})
    assert found
    assert "canary" not in repr(found)


@pytest.mark.parametrize(
    "type_", ["hcloud:index/sever:Sever", "nowhere:index/x:X", "hcloud:index/x:ServerArgs"]
)
def test_a_type_that_no_package_declares_is_a_failure(type_: str) -> None:
    (failure,) = schema.check(type_, {})
    assert type_ in failure.reason


def test_a_record_is_checked_without_importing_the_whole_package() -> None:
    """Two seconds of each preview (docs/adr/0007); nested types need the package."""
    asked = """
import sys
from rehearsal.providers import schema
RECORD = "cloudflare:index/dnsRecord:DnsRecord"
record = {"zoneId": "z", "name": "n", "type": "A", "ttl": "1"}
print([f.property for f in schema.check(RECORD, record)], "pulumi_cloudflare" in sys.modules)
record["data"] = {"prioriti": 1}
print([f.property for f in schema.check(RECORD, record)], "pulumi_cloudflare" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", asked], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["['ttl'] False", "['ttl', 'data.prioriti'] True"]


def test_an_enumeration_takes_its_members_only() -> None:
    assert schema.check("command:local:Command", {"logging": "none"}) == []
    (failure,) = schema.check("command:local:Command", {"logging": "loud"})
    assert failure.reason.startswith("must be one of stdout, ")


def test_outputs_are_named_without_id_and_urn() -> None:
    names = schema.output_names("random:index/randomPassword:RandomPassword")
    assert "result" in names
    assert not names & {"id", "urn"}
